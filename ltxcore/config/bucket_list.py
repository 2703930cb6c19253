"""Buckets that a dataset names itself: `768x512x49` is width, height and frames."""

from __future__ import annotations

import re
from dataclasses import dataclass

SPATIAL_FACTOR, TEMPORAL_FACTOR = 32, 8
_WRITTEN = re.compile(r"(\d+)x(\d+)(?:[x@](\d+))?")


@dataclass(frozen=True, order=True)
class Bucket:
    """A size and a length that samples share, in pixels and frames."""

    width: int
    height: int
    frames: int

    @property
    def tokens(self) -> int:
        """((F-1)/8+1)(H/32)(W/32)."""
        latent_frames = (self.frames - 1) // TEMPORAL_FACTOR + 1
        return latent_frames * (self.width // SPATIAL_FACTOR) * (self.height // SPATIAL_FACTOR)

    @property
    def written(self) -> str:
        """As it stands in a dataset file."""
        return f"{self.width}x{self.height}x{self.frames}"

    def __str__(self) -> str:
        return f"{self.width}x{self.height}@{self.frames}"


def read_bucket(text: str) -> Bucket:
    """`WxHxF`, or `WxH` for one frame; `WxH@F` as reports write it is the same.

    Raises:
        ValueError: it is no bucket, or none that LTX-2 takes, with the nearest one that is.
    """
    match = _WRITTEN.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is no bucket; write width x height x frames, e.g. 768x512x49")
    asked = Bucket(int(match[1]), int(match[2]), int(match[3] or 1))
    legal = Bucket(_edge(asked.width), _edge(asked.height), _frames(asked.frames))
    if asked != legal:
        nearest = legal.written if match[3] else f"{legal.width}x{legal.height}"
        raise ValueError(
            f"{text} is no bucket of LTX-2: edges are multiples of {SPATIAL_FACTOR}, and there are 8n+1 "
            f"frames; the nearest is {nearest}"
        )
    return asked


def names_frames(text: str) -> bool:
    """Whether a bucket is written with its frames."""
    match = _WRITTEN.fullmatch(text.strip().lower())
    return match is not None and match[3] is not None


def _edge(pixels: int) -> int:
    return max(1, (pixels + SPATIAL_FACTOR // 2) // SPATIAL_FACTOR) * SPATIAL_FACTOR


def _frames(count: int) -> int:
    return (max(1, count) - 1 + TEMPORAL_FACTOR // 2) // TEMPORAL_FACTOR * TEMPORAL_FACTOR + 1
