"""The picture that a video begins with, worsened as the model was trained to expect it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np
import torch

from ltxcore.media.errors import MediaError
from ltxcore.media.ffmpeg_process import FFMPEG, file_url, last_words, run_tool
from ltxcore.models.vae.video_latents import encode_videos

TIMEOUT_S = 60.0
QUIET = [*FFMPEG, "-v", "error", "-y"]

Picture = np.ndarray[Any, np.dtype[np.uint8]]


def recompress(picture: Picture, crf: int) -> Picture:
    """A picture after H.264 at a constant rate factor: as the reference gives first frames.

    Args:
        picture: uint8 RGB `[H, W, 3]`; both edges even.
        crf: 33 for LTX-2.0 and 2.3.

    Returns:
        uint8 `[H, W, 3]`.

    Raises:
        MediaError: ffmpeg failed.
    """
    height, width, _ = picture.shape
    with tempfile.TemporaryDirectory() as folder:
        raw, video = Path(folder) / "picture.rgb", Path(folder) / "picture.mp4"
        raw.write_bytes(np.ascontiguousarray(picture).tobytes())
        pixels = ffmpeg.input(file_url(raw), format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", r=25)
        encode = pixels.output(file_url(video), vcodec="libx264", crf=crf, pix_fmt="yuv420p", threads=1)
        _run(encode.compile(cmd=QUIET), raw)
        decode = ffmpeg.input(file_url(video), threads=1).output("pipe:1", format="rawvideo", pix_fmt="rgb24")
        decoded = _run(decode.compile(cmd=QUIET), video)
    return np.frombuffer(decoded, np.uint8).reshape(height, width, 3).copy()


def first_frame_latent(vae: Any, picture: Picture, crf: int) -> torch.Tensor:
    """The normalised latent `[C, 1, H / 32, W / 32]` of a picture that a video begins with."""
    return encode_videos(vae, [recompress(picture, crf)[None]])[0]


def _run(command: list[str], path: Path) -> bytes:
    done = run_tool(command, TIMEOUT_S)
    if done.returncode != 0:
        raise MediaError(f"ffmpeg cannot recompress the picture: {last_words(done.stderr, path)}")
    return done.stdout
