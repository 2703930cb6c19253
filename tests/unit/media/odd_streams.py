"""Streams as cutters, recorders and downloaders leave them: each decodes, though not all that it promises.

Frame n of each source is a plain grey of luma 16 + 4n, so that every frame says which one it is.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.unit.media.clips import ffmpeg

FROM_ZERO = ("-muxdelay", "0", "-muxpreload", "0")
NO_B = ("-c:v", "libx264", "-preset", "ultrafast", "-crf", "1", "-bf", "0")
OPEN_H264 = (
    "-c:v", "libx264", "-crf", "1", "-bf", "3", "-b_strategy", "0",
    "-x264-params", "open-gop=1:keyint=12:min-keyint=12:scenecut=0",
)  # fmt: skip
OPEN_HEVC = (
    "-c:v", "libx265", "-preset", "fast", "-x265-params",
    "open-gop=1:keyint=12:min-keyint=12:scenecut=0:bframes=3:lossless=1:log-level=none",
)  # fmt: skip


def write(
    path: Path, first: int, count: int, *options: str, size: str = "128x96", sound: str | None = None
) -> Path:
    """Greys from number `first` on at 25 fps; `sound` is an expression with its layout, as for aevalsrc."""
    grey = f"color=black:s={size}:r=25:d=10,trim=end_frame={count},geq=lum='16+4*(N+{first})':cb=128:cr=128"
    voices = () if sound is None else ("-f", "lavfi", "-i", f"aevalsrc={sound}:d={count / 25}")
    ffmpeg("-f", "lavfi", "-i", f"{grey},format=yuv420p", *voices, *options, f"file:{path}")
    return path


def cut_open_group(path: Path, codec: tuple[str, ...]) -> Path:
    """A copy from the second key frame on, with the leading pictures that need the one before it."""
    # An MP4's headers are not repeated at key frames, so a transport stream is cut from one.
    kind = "ts" if path.suffix == ".ts" else "mp4"
    tone = "'0.3*sin(2*PI*440*t)':s=48000"
    source = write(path.with_name(f"source.{kind}"), 0, 50, *codec, "-c:a", "aac", sound=tone)
    ffmpeg("-ss", "0.75", "-i", str(source), "-c", "copy", f"file:{path}")
    return path


def begun_within_group(path: Path, codec: tuple[str, ...]) -> Path:
    """A transport stream whose first fifth is cut off, wherever that is."""
    data = write(path.with_name("whole.ts"), 0, 50, *codec, "-f", "mpegts").read_bytes()
    at = len(data) // 188 // 5 * 188
    path.write_bytes(data[at:])
    return path


def joined(path: Path, *parts: Path) -> Path:
    """Files put one after the other, byte by byte."""
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def rewritten(path: Path, change: str) -> Path:
    """An MP4 of H.264 whose NAL units were changed: `cut-sei` or `unknown-nal`."""
    stream = write(path.with_suffix(".h264"), 0, 50, *NO_B, "-f", "h264")
    units = [unit for unit in re.split(b"\0\0\0\1|\0\0\1", stream.read_bytes()) if unit]
    if change == "cut-sei":
        units = [unit[: len(unit) // 2] if unit[0] & 31 == 6 else unit for unit in units]
    else:
        units = [
            part
            for unit in units
            for part in ([unit, b"\x1e\xaa\xbb\xcc"] if unit[0] & 31 in (1, 5) else [unit])
        ]
    stream.write_bytes(b"".join(b"\0\0\0\1" + unit for unit in units))
    ffmpeg("-r", "25", "-f", "h264", "-i", str(stream), "-c", "copy", f"file:{path}")
    return path
