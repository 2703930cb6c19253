"""The computation of one step: the losses of its batches, and their means."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from ltxcore.config.recipe import Recipe
from ltxcore.models.predict_velocity import predict_velocity
from ltxcore.models.text.text_connectors import connect
from ltxcore.store.fingerprint import derive_seed
from ltxcore.training.data import Batch
from ltxcore.training.objective import Losses, NoisedBatch, losses, noise_batch, patchify, unpatchify
from ltxcore.training.regularisation import aim_at_base
from ltxcore.training.scheduled_sampling import Predict, Velocities, roll_out


class TrainingDiverged(RuntimeError):
    """A loss or gradient is NaN or infinite."""


def batch_losses(
    model: Any, connectors: Any, batch: Batch, recipe: Recipe, number: int, max_tokens: int
) -> Losses:
    """The losses of batch `number`: noise it, predict velocities, compare.

    A batch without sound, or without pictures, is computed with the modalities isolated and has no loss of
    the one that it lacks.
    """
    noised = noise_batch(batch, recipe.training, number, recipe.given)
    predict = _predictor(model, connectors, batch, max_tokens)
    # Regularisation holds to the base on exact mixtures; its process still keeps in step with the others.
    rollout = roll_out(model, predict, noised, recipe, number, allowed=not batch.regularisation)
    if batch.regularisation:
        noised = aim_at_base(noised, model, lambda: predict(noised))
        return losses(*predict(noised), noised)
    if rollout is None:
        return losses(*predict(noised), noised)
    velocities = predict(rollout.noised)
    plain = losses(*velocities, rollout.noised)
    return rollout.losses(plain, velocities, recipe.scheduled_sampling)


def noised_losses(model: Any, connectors: Any, batch: Batch, noised: NoisedBatch, max_tokens: int) -> Losses:
    """The losses of a batch that is noised already."""
    return losses(*_predictor(model, connectors, batch, max_tokens)(noised), noised)


def _predictor(model: Any, connectors: Any, batch: Batch, max_tokens: int) -> Predict:
    """The model's velocities, as tokens, of a batch at any noise levels."""
    video_embeds, audio_embeds = connect(connectors, batch.features, max_tokens)

    def predict(noised: NoisedBatch) -> Velocities:
        video, audio = noised.video, noised.audio
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
            references=noised.references,
            sound_reference=noised.sound_reference,
        )
        return patchify(video_velocity), audio_velocity

    return predict


@contextmanager
def derived_dropout(seed: int, number: int, device: torch.device) -> Iterator[None]:
    """Make dropout, which only uses the global generator, draw from the seed of batch `number`."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive_seed(seed, "train-lora", number, "dropout"))
        yield


@dataclass(frozen=True)
class BatchLosses:
    """The losses of one batch, as plain numbers."""

    number: int
    sample_ids: tuple[str, ...]
    total: float
    video: float | None
    audio: float | None
    measures: Mapping[str, float]
    weights: Mapping[str, float]
    """As in `Losses`."""
    has_video: bool
    has_audio: bool
    tokens: int
    """Of video and sound, all samples together."""

    @classmethod
    def of(cls, number: int, batch: Batch, loss: Losses) -> BatchLosses:
        """The losses of batch `number` of the training."""
        video, audio = (None if part is None else part.item() for part in (loss.video, loss.audio))
        return cls(
            number=number,
            sample_ids=batch.sample_ids,
            total=loss.total.item(),
            video=video,
            audio=audio,
            measures={name: value.item() for name, value in loss.measures.items()},
            weights=loss.weights,
            has_video=batch.has_video,
            has_audio=batch.audio is not None,
            tokens=batch.tokens,
        )


@dataclass(frozen=True)
class StepLosses:
    """The losses of a step's batches, in the order of their numbers."""

    step: int
    batches: list[BatchLosses] = field(default_factory=list)

    @property
    def sample_ids(self) -> tuple[str, ...]:
        """The ids of all samples of the step."""
        return tuple(sample_id for batch in self.batches for sample_id in batch.sample_ids)

    @property
    def total(self) -> float:
        """The loss of the step: the mean over its batches."""
        return _mean([batch.total for batch in self.batches])

    @property
    def video(self) -> float | None:
        """The mean over the batches that have pictures; None where none has."""
        found = [batch.video for batch in self.batches if batch.video is not None]
        return _mean(found) if found else None

    @property
    def audio(self) -> float | None:
        """The mean over the batches that have sound; None where none has."""
        found = [batch.audio for batch in self.batches if batch.audio is not None]
        return _mean(found) if found else None

    @property
    def measures(self) -> dict[str, float]:
        """The mean of each series over the batches that have it."""
        series: dict[str, list[float]] = {}
        for batch in self.batches:
            for name, value in batch.measures.items():
                series.setdefault(name, []).append(value)
        return {name: _mean(values) for name, values in sorted(series.items())}

    @property
    def weights(self) -> dict[str, float]:
        """Of the parts that `total` is the sum of; smaller by the share of the batches that lack a part."""
        names = {name for batch in self.batches for name in batch.weights}
        return {
            name: _mean([batch.weights.get(name, 0.0) for batch in self.batches]) for name in sorted(names)
        }

    def throughput(self, step_s: float) -> dict[str, float]:
        """Samples and tokens a second in a step that took `step_s`."""
        tokens = sum(batch.tokens for batch in self.batches)
        return {"samples_per_s": len(self.sample_ids) / step_s, "tokens_per_s": tokens / step_s}

    def require_finite(self) -> None:
        """Raise TrainingDiverged, naming the step and the samples of the batch whose loss is no number."""
        for batch in self.batches:
            require_finite("loss", batch.total, self.step, batch.sample_ids)


def require_finite(what: str, value: float, step: int, sample_ids: Sequence[str]) -> None:
    """Check that a value is a finite number.

    Raises:
        TrainingDiverged: it is not; the message names step and samples.
    """
    if not math.isfinite(value):
        raise TrainingDiverged(
            f"the {what} of step {step} is {value}; its samples: {', '.join(sample_ids)}. "
            "Lower learning_rate, or look at these clips' latents"
        )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
