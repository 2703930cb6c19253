"""A small picture of a clip or an image, for reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ltxcore.media.colour import matrix_of, to_screen
from ltxcore.media.errors import MediaError
from ltxcore.media.ffmpeg_process import FFMPEG, last_words, open_input, run_tool
from ltxcore.media.probe import read_streams

EDGE_PX = 112
QUALITY = 7
"""ffmpeg's scale for JPEG: 2 is best, 31 worst."""
TIMEOUT_S = 60.0
QUIET = [*FFMPEG, "-v", "error"]


def thumbnail(path: Path, at_s: float = 0.0, track: int | None = None) -> bytes:
    """The frame at `at_s` seconds from the beginning as JPEG, its longer edge `EDGE_PX` pixels.

    HDR and wide gamuts are shown in a plain screen's colours, as in training.

    Args:
        track: the place in the file of the picture track; without it the one that a player plays.

    Raises:
        MediaError: it has no such track, or no frame could be decoded there.
    """
    where: dict[str, Any] = {"ss": f"{at_s:.3f}"} if at_s > 0 else {}
    video = read_streams(path, decoded=False, track=track).video
    frame = open_input(path, video.most_pixels, **where)[str(video.index)]
    matrix = matrix_of(video.colours, video.stored)
    shape: dict[str, Any] = {"force_original_aspect_ratio": "decrease", "flags": "area"}
    small = frame.filter("scale", EDGE_PX, EDGE_PX, **shape, **matrix)
    if video.colours.hdr is not None or video.colours.wide is not None:
        small = to_screen(small.filter("format", "yuv444p16le"), video.colours)
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
