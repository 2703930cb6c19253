"""Buckets that a dataset lists: `768x512x49` is width, height and frames."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ltxcore.config.geometry import GEOMETRY

_WRITTEN = re.compile(r"(\d+)x(\d+)(?:[x@](\d+))?")
_SIZE = r"\d+x\d+@\d+"
_SOUND = r"audio@[\d.]+s"
_NAMED = re.compile(rf"({_SIZE}|{_SOUND})(\+{_SIZE})*(\+{_SOUND})?")


@dataclass(frozen=True, order=True)
class Bucket:
    """A size and a length that samples share, in pixels and frames."""

    width: int
    height: int
    frames: int

    @property
    def tokens(self) -> int:
        """Latent tokens of a sample's video."""
        return GEOMETRY.video_tokens(self.frames, self.width, self.height)

    @property
    def written(self) -> str:
        """The bucket as a dataset file writes it."""
        return f"{self.width}x{self.height}x{self.frames}"

    def __str__(self) -> str:
        return f"{self.width}x{self.height}@{self.frames}"


def read_bucket(text: str) -> Bucket:
    """`WxHxF`, or `WxH` for one frame; `WxH@F`, as reports write it, is accepted too.

    Raises:
        ValueError: it is no bucket, or none that LTX-2 takes, with the nearest one that is.
    """
    match = _WRITTEN.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is not a bucket; write width x height x frames, e.g. 768x512x49")
    asked = Bucket(int(match[1]), int(match[2]), int(match[3] or 1))
    legal = Bucket(
        GEOMETRY.nearest_edge(asked.width),
        GEOMETRY.nearest_edge(asked.height),
        GEOMETRY.nearest_frames(asked.frames),
    )
    if asked != legal:
        nearest = legal.written if match[3] else f"{legal.width}x{legal.height}"
        raise ValueError(
            f"{text} is not a bucket of LTX-2: edges are multiples of {GEOMETRY.spatial_factor}, and there "
            f"are 8n+1 frames; the nearest is {nearest}"
        )
    return asked


def names_frames(text: str) -> bool:
    """Whether a bucket is written with its frames."""
    match = _WRITTEN.fullmatch(text.strip().lower())
    return match is not None and match[3] is not None


def bucket_name(video: Bucket, *references: Bucket) -> str:
    """What samples of one shape share: `WxH@F`, and `+WxH@F` of each reference."""
    return "+".join(map(str, (video, *references)))


def audio_bucket_name(duration_s: float) -> str:
    """`audio@Ss`, in seconds: the bucket of sound alone."""
    return f"audio@{duration_s:g}s"


def is_bucket_name(text: str) -> bool:
    """Whether a sample's bucket can have this name."""
    return _NAMED.fullmatch(text) is not None
