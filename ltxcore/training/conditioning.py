"""The given tokens of a batch: draws the conditions of each sample, as masks."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from ltxcore.config.conditioning_settings import (
    ConditioningSettings,
    FirstFrame,
    Keyframes,
    Mask,
    OneCondition,
    Prefix,
    SpatialCrop,
    Suffix,
)
from ltxcore.config.conditioning_settings import Reference as ReferenceCondition
from ltxcore.config.conditioning_settings import SoundReference as SoundReferenceCondition
from ltxcore.config.geometry import AUDIO_LATENTS_PER_SECOND, GEOMETRY
from ltxcore.models.predict_velocity import Reference, SoundReference
from ltxcore.models.vae.audio_latents import audio_latent_length
from ltxcore.store.fingerprint import SEED_BITS, derive_seed
from ltxcore.training.data import Batch

STAGE = "train-lora"
EVERY_SAMPLE = "the batch"


class Draws:
    """Uniform numbers that depend only on a seed, a batch, one of its samples and a purpose.

    Video and sound ask for the same purposes, so a condition that both have is drawn once for both.
    """

    def __init__(self, seed: int, number: int) -> None:
        self._seed, self._number = seed, number

    def share(self, sample_id: str, purpose: str) -> float:
        """Uniform in [0, 1)."""
        return derive_seed(self._seed, STAGE, self._number, sample_id, purpose) / 2**SEED_BITS

    def happens(self, condition: OneCondition, sample_id: str) -> bool:
        """Whether a condition is drawn for a sample, or for its whole batch where it adds tokens."""
        adds_tokens = isinstance(condition, Keyframes | ReferenceCondition | SoundReferenceCondition)
        drawn_for = EVERY_SAMPLE if adds_tokens else sample_id
        return self.share(drawn_for, f"{condition.type} given") < condition.probability


def given_video(batch: Batch, settings: ConditioningSettings, draws: Draws) -> torch.Tensor | None:
    """The tokens of the pictures that are given.

    A condition that would leave nothing to learn of a sample is skipped for that sample: a picture is not
    conditioned on its first frame.

    Returns:
        bool [B, F*H*W] on the CPU, or None where no sample has any.
    """
    if not batch.has_video:
        return None
    count, _, frames, height, width = batch.video.shape
    learnt = torch.ones(count, frames * height * width, dtype=torch.bool)

    def of_sample(condition: OneCondition, row: int) -> torch.Tensor | None:
        given = torch.zeros(frames, height, width, dtype=torch.bool)
        draw = _of_sample(draws, batch.sample_ids[row], condition)
        if isinstance(condition, FirstFrame):
            given[:1] = True
        elif isinstance(condition, Prefix):
            given[: GEOMETRY.latent_frames(prefix_frames(condition, draw))] = True
        elif isinstance(condition, Suffix):
            given[max(0, frames - suffix_frames(condition, draw) // GEOMETRY.temporal_factor) :] = True
        elif isinstance(condition, SpatialCrop):
            given[:, *_rectangle(condition, height, width, draw)] = True
        elif isinstance(condition, Mask) and batch.mask is not None:
            given = batch.mask[row].cpu() == 0
        elif isinstance(condition, Keyframes):
            given[:1] = 0 in condition.positions(GEOMETRY.frames_of(frames))
        return given.flatten()

    return _union(settings.video.conditions, batch, draws, learnt, of_sample)


def given_audio(batch: Batch, settings: ConditioningSettings, draws: Draws) -> torch.Tensor | None:
    """The tokens of the sound that are given, as `given_video`: bool [B, L] on the CPU, or None."""
    if batch.audio is None or batch.audio_mask is None:
        return None
    length = batch.audio.shape[1]

    def of_sample(condition: OneCondition, row: int) -> torch.Tensor:
        given = torch.zeros(length, dtype=torch.bool)
        draw = _of_sample(draws, batch.sample_ids[row], condition)
        if isinstance(condition, Prefix):
            given[: _audio_latents(prefix_frames(condition, draw), batch.fps)] = True
        elif isinstance(condition, Suffix):
            given[max(0, length - _audio_latents(suffix_frames(condition, draw), batch.fps)) :] = True
        elif isinstance(condition, Mask) and batch.mask is not None:
            given = ~masked_times(batch.mask[row].cpu(), length, batch.fps)
        return given

    return _union(settings.audio.conditions, batch, draws, batch.audio_mask.cpu() > 0, of_sample)


def given_references(batch: Batch, settings: ConditioningSettings, draws: Draws) -> tuple[Reference, ...]:
    """What is given beside the batch: all references of its samples or none, then all keyframes or none.

    Drawn once for the batch: all its samples have the same number of tokens.
    """

    def drawn(condition: OneCondition | None) -> bool:
        return condition is not None and draws.happens(condition, EVERY_SAMPLE)

    references = batch.references if drawn(settings.video.of_type("reference")) else ()
    return references + (batch.keyframes if drawn(settings.video.keyframes) else ())


def given_sound_reference(
    batch: Batch, settings: ConditioningSettings, draws: Draws | None
) -> SoundReference | None:
    """The sound that is given beside the batch's own, drawn once for the batch; without draws, always."""
    condition = settings.sound_reference
    if condition is None or batch.reference_sound is None or batch.audio is None:
        return None
    if draws is not None and not draws.happens(condition, EVERY_SAMPLE):
        return None
    return SoundReference(batch.reference_sound, condition.position == "before")


def prefix_frames(condition: Prefix, draw: Callable[[str], float]) -> int:
    """The drawn length in frames of the clip, rounded down to 8n+1: whole latents."""
    return GEOMETRY.legal_frames(_length(condition, draw))


def suffix_frames(condition: Suffix, draw: Callable[[str], float]) -> int:
    """The drawn length in frames of the clip, rounded down to 8n: whole latents."""
    return GEOMETRY.whole_latents(_length(condition, draw))


def masked_times(mask: torch.Tensor, length: int, fps: float) -> torch.Tensor:
    """Which latents of the sound stand where some of the mask is white.

    A latent of the sound belongs to the latent frame that is shown in its middle.

    Args:
        mask: white's share of each latent [F, H, W].
        length: latents of the sound.
        fps: frames a second of the clip.

    Returns:
        bool [length].
    """
    white = (mask > 0).flatten(1).any(1)
    middle_s = (torch.arange(length) + 0.5) / AUDIO_LATENTS_PER_SECOND
    # Latent frame 0 is one frame, every other one is eight.
    shown = torch.floor(middle_s * fps).long()
    latent = (shown + GEOMETRY.temporal_factor - 1) // GEOMETRY.temporal_factor
    return white[latent.clamp(max=len(white) - 1)]


def _union(
    conditions: tuple[OneCondition, ...],
    batch: Batch,
    draws: Draws,
    learnt: torch.Tensor,
    of_sample: Callable[[OneCondition, int], torch.Tensor],
) -> torch.Tensor | None:
    """The union of each sample's conditions, in order, while something of `learnt` is left."""
    given = torch.zeros_like(learnt)
    for condition in conditions:
        for row, sample_id in enumerate(batch.sample_ids):
            if draws.happens(condition, sample_id):
                both = given[row] | of_sample(condition, row)
                if (learnt[row] & ~both).any():
                    given[row] = both
    return given if given.any() else None


def _of_sample(draws: Draws, sample_id: str, condition: OneCondition) -> Callable[[str], float]:
    return lambda purpose: draws.share(sample_id, f"{condition.type} {purpose}")


def _length(condition: Prefix | Suffix, draw: Callable[[str], float]) -> int:
    least, most = condition.frames
    return least + math.floor(draw("length") * (most - least + 1))


def _audio_latents(frames: int, fps: float) -> int:
    """Latents of the sound under this many frames."""
    return audio_latent_length(frames / fps)


def _rectangle(
    condition: SpatialCrop, height: int, width: int, draw: Callable[[str], float]
) -> tuple[slice, slice]:
    """A rectangle of the picture's shape and the drawn share of its area, at a drawn place, in latents."""
    least, most = condition.area
    edge = math.sqrt(least + draw("area") * (most - least))
    rows, columns = max(1, round(edge * height)), max(1, round(edge * width))
    if (rows, columns) == (height, width) and rows * columns > 1:
        # Rounded up to the whole picture: one line of latents at least is made.
        rows, columns = (rows, columns - 1) if width >= height else (rows - 1, columns)
    top, left = (
        math.floor(draw(axis) * (whole - part + 1))
        for axis, whole, part in (("top", height, rows), ("left", width, columns))
    )
    return slice(top, top + rows), slice(left, left + columns)
