"""A small picture of a clip or an image, for reports."""

from __future__ import annotations

from pathlib import Path

from ltxcore.media.errors import MediaError
from ltxcore.media.ffmpeg_process import last_words, open_input, run_tool

EDGE_PX = 112
QUALITY = 7
"""ffmpeg's scale for JPEG: 2 is best, 31 worst."""
TIMEOUT_S = 60.0
QUIET = ["ffmpeg", "-nostdin", "-v", "error", "-filter_threads", "1"]


def thumbnail(path: Path, at_s: float = 0.0) -> bytes:
    """The frame at `at_s` seconds from the beginning as JPEG, its longer edge `EDGE_PX` pixels.

    Raises:
        MediaError: no frame could be decoded there.
    """
    where = {"ss": f"{at_s:.3f}"} if at_s > 0 else {}
    frame = open_input(path, threads=1, **where).video
    small = frame.filter("scale", EDGE_PX, EDGE_PX, force_original_aspect_ratio="decrease", flags="area")
    options = {
        "frames:v": 1,
        "format": "image2pipe",
        "vcodec": "mjpeg",
        "q:v": QUALITY,
        "pix_fmt": "yuvj420p",
    }
    done = run_tool(small.output("pipe:1", **options).compile(cmd=QUIET), TIMEOUT_S)
    if not done.stdout:
        raise MediaError(f"gives no picture at {at_s:.2f} s; ffmpeg says: {last_words(done.stderr, path)}")
    return done.stdout
