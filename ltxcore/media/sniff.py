"""Recognises a file by its first bytes; its name is not reliable."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal, NamedTuple

Kind = Literal["picture", "video", "sound"]


class Content(NamedTuple):
    """What a file's first bytes say."""

    kind: Kind | None
    """What it is read as; None where it is nothing that is read."""
    name: str = ""
    """A phrase such as "a PDF document"; empty where the bytes say nothing."""


_ADVICE = "convert it, e.g. to PNG, MP4 or WAV"
_PICTURE_ADVICE = "convert it to PNG or JPEG"
_OPENS_OTHERS = "which names other files to open and is never read; put the media files themselves there"
_PLAYLIST = f"a playlist, {_OPENS_OTHERS}"
_HLS = f"an HLS playlist, {_OPENS_OTHERS}"
_CONCAT = f"a concat script, {_OPENS_OTHERS}"
_EPS = "a PostScript programme (EPS), which is never read; convert it to PNG"
_SVG = "an SVG drawing, which may open other files and is never read; convert it to PNG"

_MEDIA: tuple[tuple[bytes, Kind, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "picture", "a PNG picture"),
    (b"\xff\xd8\xff", "picture", "a JPEG picture"),
    (b"II*\0", "picture", "a TIFF picture"),
    (b"MM\0*", "picture", "a TIFF picture"),
    (b"GIF8", "video", "a GIF animation"),
    (b"\x1a\x45\xdf\xa3", "video", "a Matroska or WebM file"),
    (b"FLV\x01", "video", "an FLV video"),
    (b"\x06\x0e\x2b\x34", "video", "an MXF video"),
    (b"\x00\x00\x01\xba", "video", "an MPEG video"),
    (b"\x00\x00\x01\xb3", "video", "an MPEG video"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "video", "an ASF (WMV, WMA) file"),
    (b"fLaC", "sound", "a FLAC sound"),
    (b"ID3", "sound", "an MP3 sound"),
)
_NOT_READ: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"%PDF", "a PDF document"),
    (b"\x7fELF", "a programme"),
    (b"MZ", "a programme"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with `git lfs pull`"),
    (b"SQLite format 3", "a database"),
    (b"PAR1", "a Parquet table"),
    (b"ARROW1", "an Arrow table"),
    (b"%!PS", _EPS),
    (b"\xc5\xd0\xd3\xc6", _EPS),
    (b"8BPS", f"a Photoshop picture; {_PICTURE_ADVICE}"),
    (b"\xff\x0a", f"a JPEG XL picture; {_PICTURE_ADVICE}"),
    (b"\0\0\0\x0cJXL ", f"a JPEG XL picture; {_PICTURE_ADVICE}"),
    (b"\0\0\0\x0cjP  ", f"a JPEG 2000 picture; {_PICTURE_ADVICE}"),
    (b"\xff\x4f\xff\x51", f"a JPEG 2000 picture; {_PICTURE_ADVICE}"),
    (b"\x76\x2f\x31\x01", f"an OpenEXR picture; {_PICTURE_ADVICE}"),
    (b"#?RADIANCE", f"a Radiance HDR picture; {_PICTURE_ADVICE}"),
    (b".RMF", f"a RealMedia file; {_ADVICE}"),
    (b"YUV4MPEG2", f"raw video (Y4M); {_ADVICE}"),
    (b"MAC ", f"a Monkey's Audio sound; {_ADVICE}"),
    (b"wvpk", f"a WavPack sound; {_ADVICE}"),
    (b"#!AMR", f"an AMR sound; {_ADVICE}"),
    (b"MThd", f"a MIDI score; {_ADVICE}"),
    (b"caff", f"a Core Audio sound; {_ADVICE}"),
    (b"FWS", f"a Flash animation; {_ADVICE}"),
    (b"CWS", f"a Flash animation; {_ADVICE}"),
    (b"\0\0\0\x01", f"a raw H.264 or HEVC stream, whose frames have no times; {_ADVICE}"),
)
_TEXTS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"#EXTM3U|#EXT-X-"), _HLS),
    (re.compile(r"ffconcat\s+version|file\s+(['\"]|\S+\.\w+\s*$)", re.IGNORECASE | re.MULTILINE), _CONCAT),
    (re.compile(r"(<\?xml.*?)?\s*(<!--.*?-->\s*)*<MPD\b", re.DOTALL), f"a DASH manifest, {_OPENS_OTHERS}"),
    (re.compile(r"(<\?xml.*?)?\s*(<!.*?>\s*)*<svg\b", re.DOTALL | re.IGNORECASE), _SVG),
    (re.compile(r"\[playlist\]|<asx\b|<\?wpl|<smil\b|\[reference\]|RTSPtext", re.IGNORECASE), _PLAYLIST),
    (re.compile(r"(<\?xml.*?)?\s*<(playlist|SmoothStreamingMedia)\b", re.DOTALL), _PLAYLIST),
    (re.compile(r"<!DOCTYPE html|<html", re.IGNORECASE), "a web page"),
)
_CUT_MP4 = "an MP4 without its index (moov): the recording or the copy was cut short"
_MP4_BOXES = (b"ftyp", b"mdat", b"wide", b"free", b"skip", b"moov", b"pnot")
_PIECE = 4096
_PACKET = 188
_TGA_MARK = 18
_SOUND_BRANDS = (b"M4A ", b"M4B ", b"M4P ")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"hevc", b"hevx")
_BYTES_LEFT_OF_A_LETTER = 4


def content_of(path: Path) -> Content:
    """What a file is.

    Raises:
        OSError: the file cannot be read.
    """
    head = _head(path)
    content = _content(head)
    if content == Content(None) and (_tail(path)[:16] == b"TRUEVISION-XFILE" or _is_old_tga(path, head)):
        return Content(None, f"a TGA picture; {_PICTURE_ADVICE}")
    return content


def _is_old_tga(path: Path, head: bytes) -> bool:
    """The first TGA has no mark at all: where the name says so, its header must make sense."""
    if path.suffix.lower() != ".tga" or len(head) < _TGA_MARK:
        return False
    has_map, kind, bits = head[1], head[2], head[16]
    return has_map in (0, 1) and kind in (1, 2, 3, 9, 10, 11) and bits in (8, 15, 16, 24, 32)


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-min(_TGA_MARK, path.stat().st_size), os.SEEK_END)
        return file.read()


def seems_to_be(path: Path) -> str | None:
    """In words, what a file is that ffmpeg or Pillow refused; None if its bytes are unknown.

    Raises:
        OSError: the file cannot be read.
    """
    head = _head(path)
    # What looks like an MP4 and was refused nevertheless lacks its index.
    if head[4:8] in _MP4_BOXES and head[8:12] not in (*_HEIC_BRANDS, b"avif", b"avis"):
        return _CUT_MP4
    found = _content(head)
    # Its kind was tried already: only pictures and sounds are worth a word.
    return found.name or None if found.kind != "video" else None


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_PIECE)


def _content(head: bytes) -> Content:
    if not head:
        return Content(None, "empty (zero bytes)")
    for found in (_boxes(head), _riff(head), _by_beginning(head), _streams(head)):
        if found is not None:
            return found
    if not head.strip(b"\0"):
        return Content(None, "nothing but zeros: a download that did not finish, perhaps")
    return _text(head)


def _boxes(head: bytes) -> Content | None:
    if head[4:8] not in _MP4_BOXES:
        return None
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    if brand in (b"avif", b"avis"):
        return Content("picture", "an AVIF picture")
    if brand in _HEIC_BRANDS:
        # Both are built alike; AVIF names itself among the brands that it is compatible with.
        if b"avif" in head[: int.from_bytes(head[:4], "big")]:
            return Content("picture", "an AVIF picture")
        return Content(None, f"a HEIC picture; {_PICTURE_ADVICE}")
    if brand == b"crx ":
        return Content(None, f"a camera's raw picture; {_PICTURE_ADVICE}")
    return (
        Content("sound", "an M4A sound") if brand in _SOUND_BRANDS else Content("video", "an MP4 or MOV file")
    )


def _riff(head: bytes) -> Content | None:
    if head[:4] in (b"RIFF", b"RF64"):
        kinds: dict[bytes, Content] = {
            b"WEBP": Content("picture", "a WebP picture"),
            b"WAVE": Content("sound", "a WAV sound"),
            b"AVI ": Content("video", "an AVI video"),
        }
        return kinds.get(head[8:12])
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return Content("sound", "an AIFF sound")
    return None


def _by_beginning(head: bytes) -> Content | None:
    for beginning, kind, name in _MEDIA:
        if head.startswith(beginning):
            return Content(kind, name)
    if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0":
        return Content("picture", "a BMP picture")
    if re.match(rb"P[1-6]\s", head):
        return Content("picture", "a PPM picture")
    for beginning, name in _NOT_READ:
        if head.startswith(beginning):
            return Content(None, name)
    return None


def _streams(head: bytes) -> Content | None:
    if head.startswith(b"OggS"):
        return Content("video" if b"theora" in head[:256] else "sound", "an Ogg file")
    for first in (0, 4):
        # Blu-ray's packets have four bytes more.
        if all(head[at : at + 1] == b"G" for at in range(first, 8 * (_PACKET + first), _PACKET + first)):
            return Content("video", "an MPEG transport stream")
    if head[0] == 0xFF and len(head) > 1:
        if head[1] & 0xF6 == 0xF0:
            return Content("sound", "an AAC sound")
        if head[1] & 0xE0 == 0xE0 and head[1] & 0x06:
            return Content("sound", "an MP3 sound")
    return None


def _text(head: bytes) -> Content:
    if b"\0" in head:
        return Content(None)
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(head) - _BYTES_LEFT_OF_A_LETTER:
            return Content(None)
        text = head[: error.start].decode("utf-8-sig")
    beginning = text.lstrip()
    return Content(None, next((name for form, name in _TEXTS if form.match(beginning)), "text"))
