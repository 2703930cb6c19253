"""How many tokens a sample has."""

from __future__ import annotations

from ltxcore.config.geometry import GEOMETRY
from ltxcore.store.snapshot import Sample


def video_tokens(sample: Sample) -> int:
    """Tokens of a sample's video and its references, which is what a step's time and memory grow with."""
    return GEOMETRY.video_tokens(sample.frames.count, *sample.geometry.target) + reference_tokens(sample)


def reference_tokens(sample: Sample) -> int:
    """Tokens of the videos that are given beside a sample's own; 0 where there is none."""
    return sum(GEOMETRY.video_tokens(r.frames.count, *r.geometry.target) for r in sample.references)
