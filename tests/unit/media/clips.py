"""Clips made for one question each, by ffmpeg."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np

LUMA_STEP = 4
LUMA_BLACK = 16


def ffmpeg(*arguments: str) -> None:
    """Run ffmpeg quietly; its error is the test's."""
    subprocess.run(["ffmpeg", "-nostdin", "-y", "-v", "error", *arguments], check=True)


def numbered_clip(
    path: Path,
    frames: int,
    rate: str = "25",
    setpts: str = "",
    codec: tuple[str, ...] = (),
    size: str = "64x64",
) -> Path:
    """A clip in which frame n is a plain grey of luma 16 + 4n (at most 54 frames).

    `setpts` is an expression for milliseconds, which makes the frame rate variable.
    """
    timing = f",settb=1/1000,setpts={setpts}" if setpts else ""
    picture = f"color=c=black:s={size}:r={rate}:d=60,trim=end_frame={frames}"
    grey = f",geq=lum='{LUMA_BLACK}+{LUMA_STEP}*N':cb=128:cr=128{timing},format=yuv420p"
    encoding = codec or ("-c:v", "libx264", "-preset", "medium", "-bf", "3", "-crf", "1")
    time_base = ("-enc_time_base", "1:1000") if setpts else ()
    ffmpeg(
        "-f", "lavfi", "-i", picture + grey, "-fps_mode", "passthrough", *time_base, *encoding,
        "-threads", "1", f"file:{path}",
    )  # fmt: skip
    return path


def numbers(frames: np.ndarray[Any, Any]) -> list[int]:
    """The numbers that `numbered_clip` wrote into frames `[F, H, W, 3]`."""
    luma = LUMA_BLACK + frames.mean(axis=(1, 2, 3)) * 219 / 255
    return [round((value - LUMA_BLACK) / LUMA_STEP) for value in luma]
