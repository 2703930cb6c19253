"""Scheduled sampling: some samples of a batch start from the model's own output for more noise.

In training x_t is an exact mixture of clip and noise; in sampling it is what earlier steps of the model left,
errors included (exposure bias). A sample that is rolled out starts k steps of 1/1000 noisier, is brought down
to its own level by k Euler steps of the model without gradient, and what that gives replaces x_t. Pictures
and sound go down together, each from its own level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import distributed
from torch.nn.functional import normalize

from ltxcore.config.recipe import Recipe
from ltxcore.config.scheduled_sampling_settings import STEPS, ScheduledSamplingSettings
from ltxcore.store.fingerprint import derive_seed
from ltxcore.training.objective import Losses, Noised, NoisedBatch

Velocities = tuple[torch.Tensor, torch.Tensor | None]
"""Of pictures and sound, as tokens [B, N, C] and [B, L, D]."""
Predict = Callable[[NoisedBatch], Velocities]
SMALLEST_NORM = 1e-12


@dataclass(frozen=True)
class Rollout:
    """A batch of which some samples were rolled out."""

    noised: NoisedBatch
    """What the training step sees: x_t of the rolled samples is what the model has made."""
    exact: NoisedBatch
    """The same batch with exact mixtures."""
    offsets: torch.Tensor
    """How many steps each sample was rolled; int64 [B]."""

    def losses(self, plain: Losses, velocities: Velocities, settings: ScheduledSamplingSettings) -> Losses:
        """The losses of the batch: ReflexFlow's two parts are in the total, and measures with their weights.

        `video` and `audio` stay what they are without it, so that they compare with those of other steps.
        """
        measures = {**plain.measures, "rolled_samples": (self.offsets > 0).sum().float()}
        if not settings.scheduled_sampling_reflexflow or not self.offsets.any():
            return replace(plain, measures=measures)
        pairs = [(velocities[0], self.noised.video, self.exact.video)] if self.noised.has_video else []
        if velocities[1] is not None and self.noised.audio is not None and self.exact.audio is not None:
            pairs.append((velocities[1], self.noised.audio, self.exact.audio))
        rolled = (self.offsets > 0).to(self.noised.video.tokens.device)
        found = [reflexflow(*pair, settings) for pair in pairs]
        beta1 = settings.scheduled_sampling_reflexflow_beta1
        each = [compensation + beta1 * drift for compensation, drift in found]
        more = torch.stack([(value * rolled).mean() for value in each]).sum()
        for name, values in zip(("compensation", "drift"), zip(*found, strict=True), strict=True):
            part = torch.stack([(value.detach() * rolled).mean() for value in values]).sum()
            measures[f"reflexflow_{name}"] = part
        weights = {**plain.weights, "reflexflow_compensation": 1.0, "reflexflow_drift": beta1}
        return replace(plain, total=plain.total + more, measures=measures, weights=weights)


def roll_out(
    model: Any, predict: Predict, noised: NoisedBatch, recipe: Recipe, number: int, *, allowed: bool = True
) -> Rollout | None:
    """Roll out a share of the samples of batch `number`; None where the recipe has no rollouts.

    Every process of a training makes equally many forward passes, so that none waits for another. Where no
    sample is rolled out there is none. With `allowed` false no sample of this batch is.
    """
    settings, training = recipe.scheduled_sampling, recipe.training
    if not settings.enabled:
        return None
    generator = torch.Generator().manual_seed(derive_seed(training.seed, "train-lora", number, "rollout"))
    step = number // recipe.batches_a_step
    offsets = draw_offsets(settings, step, len(noised.video.tokens), generator)
    offsets = offsets * allowed
    device = noised.video.tokens.device
    steps = _most_of_all_processes(offsets, device)
    if steps == 0:
        return Rollout(noised, noised, offsets)
    with as_in_sampling(model):
        return Rollout(integrate(predict, noised, offsets.to(device), steps), noised, offsets)


def draw_offsets(
    settings: ScheduledSamplingSettings, step: int, count: int, generator: torch.Generator
) -> torch.Tensor:
    """How many steps each sample is rolled out; 0 for those that are not.

    A sample is with the probability of the optimizer step, and then its offset is uniform on 0 to the most;
    `biased_early` takes the smaller of two such draws and `biased_late` the larger.

    Returns:
        int64 [count].
    """
    chosen = torch.rand(count, generator=generator) < settings.probability(step)
    most = settings.scheduled_sampling_max_step_offset
    draws = torch.randint(0, most + 1, (2, count), generator=generator)
    offsets = {"uniform": draws[0], "biased_early": draws.amin(0), "biased_late": draws.amax(0)}
    return offsets[settings.scheduled_sampling_strategy] * chosen


@contextmanager
def as_in_sampling(model: Any) -> Iterator[None]:
    """Compute as a sampler does: no gradients, no dropout."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def integrate(predict: Predict, noised: NoisedBatch, offsets: torch.Tensor, steps: int) -> NoisedBatch:
    """The batch as the model's output for more noise, at its own noise levels.

    Args:
        predict: the velocities of a batch.
        noised: exact mixtures.
        offsets: steps of each sample, int64 [B]; 0 leaves it as it is.
        steps: forward passes to make, at least as many as the largest offset.
    """
    video = _Descent(noised.video, offsets)
    audio = None if noised.audio is None else _Descent(noised.audio, offsets)
    for done in range(steps):
        at = replace(noised, video=video.state(done), audio=None if audio is None else audio.state(done))
        video_velocity, audio_velocity = predict(at)
        video.follow(video_velocity, done)
        if audio is not None and audio_velocity is not None:
            audio.follow(audio_velocity, done)
    return replace(noised, video=video.state(steps), audio=None if audio is None else audio.state(steps))


class _Descent:
    """One modality during a rollout.

    At noise level s the mixture is x0 + s v with v = eps - x0, so x_t + (s - sigma) v is the same clip and
    the same noise at a higher level. Conditioned tokens do not move, nor does a modality that is given whole
    (sigma 0).
    """

    def __init__(self, noised: Noised, offsets: torch.Tensor) -> None:
        self._noised, self._offsets = noised, offsets
        above = (noised.sigma + offsets / STEPS).clamp(max=1.0)
        self._gap = torch.where(noised.sigma > 0, above - noised.sigma, 0.0)
        self._tokens = noised.tokens + self._per_token(self._gap) * noised.target

    def state(self, done: int) -> Noised:
        """The modality after this many steps."""
        left = (self._offsets - done).clamp(min=0) / self._offsets.clamp(min=1)
        return replace(self._noised, tokens=self._tokens, sigma=self._noised.sigma + self._gap * left)

    def follow(self, velocity: torch.Tensor, done: int) -> None:
        """One Euler step of the samples that have not reached their level yet."""
        stride = self._gap / self._offsets.clamp(min=1) * (done < self._offsets)
        self._tokens = self._tokens - self._per_token(stride) * velocity.float()

    def _per_token(self, distance: torch.Tensor) -> torch.Tensor:
        """A distance of each sample [B] as one of each token, 0 on what is given; [B, 1 or N, 1]."""
        clean = self._noised.clean
        tokens = distance[:, None] if clean is None else distance[:, None] * ~clean
        return tokens[..., None]


def reflexflow(
    prediction: torch.Tensor, rolled: Noised, exact: Noised, settings: ScheduledSamplingSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """ReflexFlow's (arXiv:2512.04904) addition to the flow-matching loss of a rolled-out sample.

    With m the loss's mask, b = x_t - x'_t the exposure bias of the rolled x'_t, err = prediction - v and
    mean() over what m leaves:

    * frequency compensation, beta2 mean(w err²), w = 1 + alpha |b| / ||b||_1. It takes the place of
      mean(err²), which is subtracted here. ||·||_1 is the mean of |·|, so that w is 1 + alpha on average
      whatever the size of the clip; with the plain sum it would be 1 in float32. The states' difference
      stands for that of the velocities: after one Euler step both are the same but for a factor, which the
      norm takes out.
    * anti-drift rectification, ||dir(prediction) - dir(x'_t - x0)||², with dir(a) = a / ||a||_2 over the
      sample, of the weight beta1 in the loss. From x'_t, and not from x_t, that direction leads to the clip.

    Args:
        prediction: velocity at x'_t, [B, N, C] of any dtype.
        rolled: the modality as the model saw it, with the target v = eps - x0 of the exact mixture.
        exact: the same with x_t.
        settings: the weights.

    Returns:
        Both, float32 [B]: the compensation with its weights less what it replaces, and the drift without
        its weight; 0 for a sample that is masked altogether.
    """
    predicted, mask = prediction.float(), rolled.mask[..., None]
    values = (mask.sum((1, 2)) * predicted.shape[-1]).clamp(min=1)
    bias = (exact.tokens - rolled.tokens).abs() * mask
    share = bias / (bias.sum((1, 2)) / values).clamp(min=SMALLEST_NORM)[:, None, None]
    weight = settings.scheduled_sampling_reflexflow_beta2 * (
        1 + settings.scheduled_sampling_reflexflow_alpha * share
    )
    error = (predicted - rolled.target).square() * mask
    compensation = ((weight - 1) * error).sum((1, 2)) / values

    start = exact.tokens - exact.sigma[:, None, None] * exact.target
    drift = _direction(predicted * mask) - _direction((rolled.tokens - start) * mask)
    return compensation, drift.square().sum(1)


def _direction(values: torch.Tensor) -> torch.Tensor:
    """Each sample as one vector of length 1."""
    return normalize(values.flatten(1), dim=1, eps=SMALLEST_NORM)


def _most_of_all_processes(offsets: torch.Tensor, device: torch.device) -> int:
    most = offsets.max().to(device)
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(most, op=distributed.ReduceOp.MAX)
    return int(most)
