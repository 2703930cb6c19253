"""The computation of one step: the losses of its batches, and their means."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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


@dataclass(frozen=True)
class DrawnBatch:
    """A batch with its noise: all of a step that needs no model."""

    batch: Batch
    noised: NoisedBatch

    @classmethod
    def of(cls, batch: Batch, recipe: Recipe, number: int, device: torch.device) -> DrawnBatch:
        """Draw the noise of batch `number`, in page-locked memory where it will go to a CUDA device."""
        noised = noise_batch(batch, recipe.training, number, recipe.given)
        # What is given beside the clip is in `noised`, as far as it is given at this visit.
        batch = replace(batch, references=(), keyframes=(), reference_sound=None)
        if device.type != "cuda":
            return cls(batch, noised)
        return cls(batch.pinned(), noised.pinned())

    def to(self, device: torch.device) -> DrawnBatch:
        """The same on a device; from pinned memory without waiting for the copy."""
        return DrawnBatch(self.batch.to(device), self.noised.to(device))


def batch_losses(
    model: Any, connectors: Any, drawn: DrawnBatch, recipe: Recipe, number: int, max_tokens: int
) -> Losses:
    """The losses of batch `number`: predict velocities of what is noised already, compare.

    A batch without sound, or without pictures, is computed with the modalities isolated and has no loss of
    the one that it lacks.
    """
    batch, noised = drawn.batch, drawn.noised
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


@dataclass(frozen=True)
class Unread:
    """What batch `number` gave, its losses still on the device without what they were computed from."""

    number: int
    sample_ids: tuple[str, ...]
    losses: Losses
    has_video: bool
    has_audio: bool
    tokens: int

    @classmethod
    def of(cls, number: int, batch: Batch, losses: Losses) -> Unread:
        """The losses of a batch, to be read with those of its whole step."""
        detached = replace(
            losses,
            total=losses.total.detach(),
            video=None if losses.video is None else losses.video.detach(),
            audio=None if losses.audio is None else losses.audio.detach(),
            measures={name: value.detach() for name, value in losses.measures.items()},
        )
        return cls(number, batch.sample_ids, detached, batch.has_video, batch.audio is not None, batch.tokens)

    def values(self) -> list[torch.Tensor]:
        """Scalars []: the total, pictures and sound where they are, then the measures in their order."""
        found = (self.losses.total, self.losses.video, self.losses.audio, *self.losses.measures.values())
        return [value for value in found if value is not None]

    def read(self, numbers: Iterator[float]) -> BatchLosses:
        """The losses as numbers, of which `numbers` gives those of `values`; what is NaN is no measure."""
        total = next(numbers)
        video, audio = (
            None if part is None else next(numbers) for part in (self.losses.video, self.losses.audio)
        )
        measures = {name: next(numbers) for name in self.losses.measures}
        return BatchLosses(
            number=self.number,
            sample_ids=self.sample_ids,
            total=total,
            video=video,
            audio=audio,
            measures={name: value for name, value in measures.items() if not math.isnan(value)},
            weights=self.losses.weights,
            has_video=self.has_video,
            has_audio=self.has_audio,
            tokens=self.tokens,
        )


@dataclass(frozen=True)
class StepLosses:
    """The losses of a step's batches, in the order of their numbers."""

    step: int
    batches: list[BatchLosses] = field(default_factory=list)

    @classmethod
    def read(cls, step: int, batches: Sequence[Unread]) -> StepLosses:
        """Bring the losses of a step's batches from the device, all by one copy: each one waits for it."""
        values = [value.float() for batch in batches for value in batch.values()]
        numbers = iter(torch.stack([value.to(values[0].device) for value in values]).tolist())
        return cls(step, [batch.read(numbers) for batch in batches])

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
