"""What ffprobe says of a file's streams, and what is no media file at all."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import NamedTuple

from ltxcore.config.base import Strict
from ltxcore.media.errors import MediaError, cannot_be_read
from ltxcore.media.ffmpeg_process import MOST_PIXELS, ffprobe, last_words
from ltxcore.media.sniff import seems_to_be

_STREAM_FIELDS = (
    "index,codec_name,codec_type,has_b_frames,width,height,sample_aspect_ratio,pix_fmt,bits_per_raw_sample,field_order,"
    "color_transfer,color_space,color_primaries,color_range,time_base,nb_frames,sample_rate,channels,channel_layout,start_time,duration"
)
_STREAM_ENTRIES = (
    f"format=format_name,duration:stream={_STREAM_FIELDS}:stream_disposition=attached_pic,default"
    ":stream_tags=rotate,language,DURATION,alpha_mode"
    ":stream_side_data=rotation,dv_profile,dv_bl_signal_compatibility_id"
)
_PACKET_ENTRIES = "packet=stream_index,pts,dts,duration,flags"
_FRAME_ENTRIES = (
    "frame=media_type,stream_index,key_frame,best_effort_timestamp,duration,pkt_duration,width,height,"
    "interlaced_frame:frame_tags=:frame_side_data=:log=message"
)
ERRORS = "16"
"""The log level of what is not to be passed over."""
DECODED_WHOLE_BYTES = 8 << 20
"""Files up to this size are listed and decoded by one process."""
MOST_PIXELS_DECODED, FEWEST_PACKETS_DECODED = 2_000_000_000, 100
"""Of a larger file only so much of the beginning is decoded: a thousand frames of 1080p, some seconds."""
_UNKNOWN = ("N/A", "unknown")

Fields = dict[str, str]
"""The fields of one stream; those that ffprobe does not know are left out."""


class Report(NamedTuple):
    """What ffprobe says of a file's container and streams."""

    container: str
    duration_s: float | None
    streams: list[Fields]


class Listing(NamedTuple):
    """A report, and the packets of all streams, which ffprobe reads in the same process."""

    report: Report
    packets: bytes
    """One a line, as `packet|stream_index=0|pts=…`, in the order of the file; among them, where they were
    asked for, what the decoder gives: `frame|media_type=video|stream_index=0|…`."""
    said: bytes
    """What ffprobe had to complain of."""
    status: int
    decoded: bytes = b""
    """The lines with what the decoders give; empty where they were not asked."""
    is_head: bool = False
    """Whether only the beginning was decoded, of a file that is too large."""


class AudioStream(Strict):
    """The sound track."""

    index: int
    codec: str
    rate: int
    channels: int
    layout: str
    start_s: float
    duration_s: float | None
    right: int | None = None
    """The track of the right channel, where `index` holds the left one alone."""

    @property
    def tracks(self) -> tuple[int, ...]:
        """The places in the file of all that it is made of."""
        return (self.index,) if self.right is None else (self.index, self.right)


def check_file(path: Path) -> None:
    """Refuse a path that is no readable file.

    Raises:
        MediaError: a directory, pipe, broken link, empty or unreadable file, or a name that is not UTF-8.
        Undecided: the disk or its server failed.
    """
    try:
        str(path).encode("utf-8")
        info = path.stat()
        if path.is_dir():
            with os.scandir(path):
                raise MediaError("is a directory, not a file")
        if not path.is_file():
            raise MediaError("is not a regular file")
        with path.open("rb") as file:
            file.read(1)
    except UnicodeEncodeError:
        raise MediaError("has a name that is not UTF-8; rename it") from None
    except FileNotFoundError:
        raise MediaError(
            "is a link to a file that is not there" if path.is_symlink() else "is not there"
        ) from None
    except OSError as error:
        raise cannot_be_read(error) from error
    if info.st_size == 0:
        raise MediaError("is empty (zero bytes)")


def ffprobe_streams(path: Path, what: str = "a video") -> Report:
    """ffprobe's report of container and streams.

    Raises:
        MediaError: it is not `what`, and what it seems to be instead.
    """
    return _listing(path, what, _STREAM_ENTRIES).report


def ffprobe_packets(path: Path, most_pixels: int = MOST_PIXELS) -> Listing:
    """ffprobe's report of a video, with every packet of it; nothing is decoded.

    Args:
        most_pixels: larger pictures are not looked into for their size.

    Raises:
        MediaError: it is not a video, and what it seems to be instead.
    """
    return _listing(path, "a video", f"{_STREAM_ENTRIES}:{_PACKET_ENTRIES}", most_pixels=most_pixels)


def ffprobe_frames(path: Path, most_pixels: int) -> Listing:
    """As `ffprobe_packets`, with the frames that the decoders give, of a large file those of its beginning.

    Args:
        most_pixels: larger pictures are not decoded, which `said` says.

    Raises:
        MediaError: it is not a video, and what it seems to be instead.
    """
    # One thread: only so does ffprobe say which frame a complaint belongs to.
    in_order = ("-threads", "1", "-show_log", ERRORS)
    if path.stat().st_size <= DECODED_WHOLE_BYTES:
        entries = f"{_STREAM_ENTRIES}:{_PACKET_ENTRIES}:{_FRAME_ENTRIES}"
        listing = _listing(path, "a video", entries, *in_order, most_pixels=most_pixels)
        return listing._replace(decoded=listing.packets)
    listing = ffprobe_packets(path, most_pixels)
    pictures = [s for s in listing.report.streams if s.get("codec_type") == "video"]
    pixels = max((int(s.get("width", 0)) * int(s.get("height", 0)) for s in pictures), default=0)
    most = max(FEWEST_PACKETS_DECODED, MOST_PIXELS_DECODED // max(1, pixels))
    head = ("-read_intervals", f"%+#{most}", "-select_streams", "v")
    options = (*in_order, *head, "-show_entries", _FRAME_ENTRIES, "-of", "compact")
    _, out, said = ffprobe(path, *options, most_pixels=most_pixels)
    count = sum(listing.packets.count(f"packet|stream_index={s['index']}|".encode()) for s in pictures)
    return listing._replace(decoded=out, said=listing.said + said, is_head=count > most)


def _listing(path: Path, what: str, entries: str, *options: str, most_pixels: int = MOST_PIXELS) -> Listing:
    shown = (*options, "-show_entries", entries, "-of", "compact")
    status, out, said = ffprobe(path, *shown, most_pixels=most_pixels)
    report = _read_report(out)
    if report is not None:
        return Listing(report, out, said, status)
    guess = seems_to_be(path)
    if guess is not None:
        raise MediaError(f"is not {what} that can be read: it seems to be {guess}")
    raise MediaError(f"is not {what} that can be read; ffprobe says: {last_words(said, path)}")


def _read_report(out: bytes) -> Report | None:
    """None where ffprobe could not open the file, so that it names no format."""
    streams: dict[str, Fields] = {}
    container: Fields | None = None
    for line in io.BytesIO(out):
        if line.startswith(b"stream|"):
            # The streams of a programme (MPEG-TS) are listed with it and once more.
            fields = read_fields(line)
            streams.setdefault(fields["index"], fields)
        elif line.startswith(b"format|"):
            container = read_fields(line)
    if container is None:
        return None
    return Report(
        container.get("format_name", "unknown"), seconds(container.get("duration")), list(streams.values())
    )


def read_fields(line: bytes) -> Fields:
    """A line of ffprobe's `compact` form. A field counts once: tags, which may hold anything, come last."""
    fields: Fields = {}
    for part in line.decode("utf-8", "replace").rstrip("\n").split("|"):
        name, _, value = part.partition("=")
        if value and value not in _UNKNOWN:
            fields.setdefault(name, value)
    return fields


def sound_stream(stream: Fields) -> AudioStream:
    """A sound track from its fields."""
    return AudioStream(
        index=int(stream["index"]),
        codec=stream.get("codec_name", "unknown"),
        rate=int(stream["sample_rate"]),
        channels=int(stream["channels"]),
        layout=stream.get("channel_layout", "unknown"),
        start_s=seconds(stream.get("start_time")) or 0.0,
        duration_s=seconds(stream.get("duration")) or _clock(stream.get("tag:DURATION")),
    )


def is_sound(stream: Fields) -> bool:
    """Whether a stream is a sound track that has channels."""
    return stream.get("codec_type") == "audio" and int(stream.get("channels", 0)) > 0


def seconds(text: str | None) -> float | None:
    """A field of ffprobe as seconds; None where it is no number, such as `N/A`."""
    return float(text) if text and re.fullmatch(r"-?\d+(\.\d*)?|-?\.\d+", text) else None


def _clock(text: str | None) -> float | None:
    """Seconds of Matroska's `00:00:01.600000000`."""
    match = re.fullmatch(r"(\d+):(\d+):([\d.]+)", text or "")
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]) if match else None
