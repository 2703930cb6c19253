"""How many tokens a sample has."""

from __future__ import annotations

from ltxcore.config.geometry import GEOMETRY
from ltxcore.store.snapshot import Sample


def video_tokens(sample: Sample) -> int:
    """Tokens of a sample's video and its reference, which is what a step's time and memory grow with."""
    return GEOMETRY.video_tokens(sample.frames.count, *sample.geometry.target) + reference_tokens(sample)


def reference_tokens(sample: Sample) -> int:
    """Tokens of the video that is given beside a sample's own; 0 where there is none."""
    if sample.reference is None:
        return 0
    return GEOMETRY.video_tokens(sample.reference.frames.count, *sample.reference.geometry.target)
