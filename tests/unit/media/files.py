"""Sounds and pictures made for one question each."""

from __future__ import annotations

import subprocess
from pathlib import Path

from PIL import Image

from tests.unit.media.clips import ffmpeg


def tone(path: Path, seconds: float, hertz: float = 440, rate: int = 16000, channels: int = 1) -> Path:
    """A sine; the codec follows from the extension."""
    layout = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}[channels]
    voices = "|".join([f"0.4*sin(2*PI*{hertz}*t)"] * channels)
    source = f"aevalsrc='{voices}':s={rate}:d={seconds}:c={layout}"
    ffmpeg("-f", "lavfi", "-i", source, f"file:{path}")
    return path


def picture(path: Path, size: tuple[int, int] = (96, 64), seed: int = 0, **options: object) -> Path:
    """A colourful picture with a bright left half; the format follows from the extension."""
    width, height = size
    image = Image.new("RGB", size)
    image.putdata([
        ((255 if x < width // 2 else 40), (x * 7 + seed * 31) % 256, (y * 5 + seed * 57) % 256)
        for y in range(height)
        for x in range(width)
    ])  # fmt: skip
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def caption(path: Path, text: str | None = None) -> None:
    """A caption beside a file."""
    path.with_suffix(".txt").write_text(text or f"a caption of {path.stem}")


def media_tool(*arguments: str) -> str:
    """What a media programme prints."""
    return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
