"""What one step computes: the losses of its batches, and their means."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from ltxcore.config.recipe import Recipe
from ltxcore.models.call import predict_velocity
from ltxcore.models.text import connect
from ltxcore.store.fingerprint import derive_seed
from ltxcore.training.data import Batch
from ltxcore.training.objective import Losses, losses, noise_batch, patchify, unpatchify


class TrainingDiverged(RuntimeError):
    """A loss or gradient that is no number."""


def batch_losses(
    model: Any, connectors: Any, batch: Batch, recipe: Recipe, number: int, max_tokens: int
) -> Losses:
    """The losses of batch `number`: noise it, predict velocities, compare.

    A batch without sound, or without pictures, is computed with the modalities isolated and has no loss of
    the one that it lacks.
    """
    noised = noise_batch(batch, recipe.training, number)
    video, audio = noised.video, noised.audio
    video_embeds, audio_embeds = connect(connectors, batch.features, max_tokens)
    video_velocity, audio_velocity = predict_velocity(
        model,
        video=unpatchify(video.tokens, like=batch.video),
        audio=None if audio is None else audio.tokens,
        video_times=video.times,
        audio_times=None if audio is None else audio.times,
        video_sigma=video.sigma,
        audio_sigma=None if audio is None else audio.sigma,
        video_embeds=video_embeds.to(video.tokens.dtype),
        audio_embeds=audio_embeds.to(video.tokens.dtype),
        fps=batch.fps,
        isolated=not batch.has_video,
    )
    return losses(patchify(video_velocity), audio_velocity, noised)


@contextmanager
def derived_dropout(seed: int, number: int, device: torch.device) -> Iterator[None]:
    """Let dropout, which knows only the global generator, draw from the seed of batch `number`."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive_seed(seed, "train-lora", number, "dropout"))
        yield


@dataclass
class StepLosses:
    """The losses of one step's batches, as plain numbers."""

    step: int
    sample_ids: list[str] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)
    video: list[float] = field(default_factory=list)
    audio: list[float] = field(default_factory=list)
    measures: dict[str, list[float]] = field(default_factory=dict)

    def add(self, loss: Losses, sample_ids: Sequence[str]) -> None:
        """Note the losses of a batch.

        Raises:
            TrainingDiverged: the loss is not finite; names the step and the batch's samples.
        """
        total = loss.total.item()
        require_finite("loss", total, self.step, sample_ids)
        self.sample_ids += sample_ids
        self.totals.append(total)
        if loss.video is not None:
            self.video.append(loss.video.item())
        if loss.audio is not None:
            self.audio.append(loss.audio.item())
        for name, value in loss.measures.items():
            self.measures.setdefault(name, []).append(value.item())


def require_finite(what: str, value: float, step: int, sample_ids: Sequence[str]) -> None:
    """Raise TrainingDiverged, naming step and samples, where `value` is no finite number."""
    if not math.isfinite(value):
        raise TrainingDiverged(
            f"the {what} of step {step} is {value}; its samples: {', '.join(sample_ids)}. "
            "Lower learning_rate, or look at these clips' latents"
        )


def mean(values: Sequence[float]) -> float:
    """The mean of at least one value."""
    return sum(values) / len(values)
