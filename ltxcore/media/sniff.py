"""A guess at what a file is that ffmpeg does not take for media, from its first bytes."""

from __future__ import annotations

from pathlib import Path

_BEGINNINGS = (
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x7fELF", "a programme"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with `git lfs pull`"),
    (b"<!DOCTYPE", "a web page"),
    (b"<html", "a web page"),
    (b"#EXTM3U", "a playlist"),
    (b"ffconcat", "a playlist"),
)
_MP4_BOXES = (b"ftyp", b"mdat", b"wide", b"free", b"skip", b"moov")
_PIECE = 4096


def seems_to_be(path: Path) -> str | None:
    """A phrase for what a file that ffmpeg refused is, or None when its bytes say nothing.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_PIECE)
    if head[4:8] in _MP4_BOXES:
        return "an MP4 without its index (moov): the recording or the copy was cut short"
    for beginning, what in _BEGINNINGS:
        if head.startswith(beginning):
            return what
    if not head.strip(b"\0"):
        return "nothing but zeros: a download that did not finish, perhaps"
    if b"\0" in head:
        return None
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:
            return None
    return "text"
