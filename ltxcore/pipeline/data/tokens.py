"""How many tokens a sample has."""

from __future__ import annotations

from ltxcore.config.conditioning_settings import Keyframes
from ltxcore.config.geometry import AUDIO_LATENTS_PER_SECOND, GEOMETRY
from ltxcore.pipeline.data.keyframes import keyframe_tokens
from ltxcore.store.snapshot import Sample


def video_tokens(sample: Sample, keyframes: Keyframes | None = None) -> int:
    """Tokens of a sample's video and of what is given beside it: what a step's time and memory grow with."""
    size = sample.frames.count, *sample.geometry.target
    return GEOMETRY.video_tokens(*size) + reference_tokens(sample) + keyframe_tokens(keyframes, *size)


def reference_sound_tokens(sample: Sample) -> int:
    """Tokens of the sound that is given beside a sample's own; 0 where there is none."""
    sound = sample.reference_sound
    return 0 if sound is None else round(sound.duration_s * AUDIO_LATENTS_PER_SECOND)


def reference_tokens(sample: Sample) -> int:
    """Tokens of the videos that are given beside a sample's own; 0 where there is none."""
    return sum(GEOMETRY.video_tokens(r.frames.count, *r.geometry.target) for r in sample.references)
