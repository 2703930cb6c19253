"""What ffprobe says of a file's streams, and what is no media file at all."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from ltxcore.config.base import Strict
from ltxcore.media.errors import MediaError
from ltxcore.media.ffmpeg_process import ffprobe, last_words
from ltxcore.media.sniff import seems_to_be

_STREAM_FIELDS = (
    "index,codec_name,codec_type,has_b_frames,width,height,sample_aspect_ratio,pix_fmt,bits_per_raw_sample,field_order,"
    "color_transfer,color_space,time_base,nb_frames,sample_rate,channels,channel_layout,start_time,duration"
)
_STREAM_ENTRIES = (
    f"format=format_name,duration:stream={_STREAM_FIELDS}:stream_disposition=attached_pic"
    ":stream_tags=rotate,DURATION:stream_side_data=rotation"
)


class AudioStream(Strict):
    """The sound track."""

    index: int
    codec: str
    rate: int
    channels: int
    layout: str
    start_s: float
    duration_s: float | None


def check_file(path: Path) -> None:
    """Refuse what holds no bytes to read.

    Raises:
        MediaError: a directory, pipe, broken link, empty or unreadable file, or a name that is not UTF-8.
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
        raise MediaError(f"cannot be read: {error.strerror}") from error
    if info.st_size == 0:
        raise MediaError("is empty (zero bytes)")


def ffprobe_streams(path: Path, what: str = "a video") -> dict[str, Any]:
    """ffprobe's report of container and streams.

    Raises:
        MediaError: it is not `what`, and what it seems to be instead.
    """
    status, out, err = ffprobe(path, "-show_entries", _STREAM_ENTRIES, "-of", "json")
    if status == 0:
        report: dict[str, Any] = json.loads(out)
        return report
    guess = seems_to_be(path)
    if guess is not None:
        raise MediaError(f"is not {what} that can be read: it seems to be {guess}")
    raise MediaError(f"is not {what} that can be read; ffprobe says: {last_words(err, path)}")


def first_sound(report: dict[str, Any]) -> AudioStream | None:
    """The first sound track of a report."""
    stream = next((s for s in report.get("streams", []) if is_sound(s)), None)
    if stream is None:
        return None
    return AudioStream(
        index=stream["index"],
        codec=stream.get("codec_name", "unknown"),
        rate=int(stream["sample_rate"]),
        channels=int(stream["channels"]),
        layout=stream.get("channel_layout", "unknown"),
        start_s=seconds(stream.get("start_time")) or 0.0,
        duration_s=seconds(stream.get("duration")) or _clock(stream.get("tags", {}).get("DURATION")),
    )


def is_sound(stream: dict[str, Any]) -> bool:
    return stream.get("codec_type") == "audio" and int(stream.get("channels", 0)) > 0


def seconds(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"-?[\d.]+", text) else None


def _clock(text: str | None) -> float | None:
    """Seconds of Matroska's `00:00:01.600000000`."""
    match = re.fullmatch(r"(\d+):(\d+):([\d.]+)", text or "")
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]) if match else None
