"""The training loop. It reads as the algorithm; what a step is made of is in the other files."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ltxcore.config.recipe import Recipe, TrainingSettings
from ltxcore.memory.measure import measure_peaks
from ltxcore.memory.placement import Placement
from ltxcore.models.call import predict_velocity
from ltxcore.models.modulation import install_cross_modulation
from ltxcore.models.text import connect
from ltxcore.store.fingerprint import derive_seed
from ltxcore.training.checkpoints import Checkpoint, latest, write_checkpoint
from ltxcore.training.data import Batch, SampleSource, collate
from ltxcore.training.lora import add_lora, load_lora, lora_parameters, target_modules
from ltxcore.training.metrics import METRICS_FILE, MetricsLog, StepMetrics, read_metrics
from ltxcore.training.objective import Losses, losses, noise_batch, patchify, unpatchify
from ltxcore.training.optimizer import (
    load_moments,
    load_schedule,
    make_optimizer,
    make_scheduler,
    moments,
    schedule_state,
)
from ltxcore.training.plan import BatchPlan
from ltxcore.training.prefetch import Prefetcher

ENDS_SHARE = 0.1
"""First and last loss are means over this share of the steps."""


class TrainingInterrupted(Exception):
    """The training was asked to stop, and did so after writing a checkpoint of `step`."""

    def __init__(self, step: int) -> None:
        super().__init__(f"training stopped on request after step {step}; its checkpoint is written")
        self.step = step


class TrainingDiverged(RuntimeError):
    """A loss or gradient that is no number."""


class ForeignCheckpoint(ValueError):
    """The directory holds checkpoints of another training."""


@dataclass(frozen=True)
class TrainResult:
    """What a finished training came to, over all its steps, those before a resume included."""

    steps: int
    first_loss: float
    last_loss: float
    seconds: float
    """Time inside steps."""
    peak_bytes: int
    """Highest use of device memory, or of host memory where there is no device."""


def train(
    transformer: Any,
    connectors: Any,
    source: SampleSource,
    recipe: Recipe,
    directory: Path,
    *,
    run_fingerprint: str,
    max_tokens: int,
    placement: Placement | None = None,
    on_step: Callable[[StepMetrics], None] = lambda metrics: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Train a LoRA on the transformer, continuing from the newest whole checkpoint in `directory`.

    The trained adapter is left in the transformer; `lora_parameters` gives it for `export_lora`. Continued
    training equals undisturbed training: every draw is derived from seed and position.

    Args:
        transformer: `LTX2VideoTransformer3DModel` without adapter, on its device or in its placement;
            float32 where mixed_precision is `no`.
        connectors: `LTX2TextConnectors` on the same device.
        source: the samples.
        recipe: its `lora` and `training` parts are used.
        directory: gets `metrics.jsonl` and `checkpoint-<step>` directories.
        run_fingerprint: what the training is made of (weights, data, recipe).
        max_tokens: text slots, a multiple of the connectors' registers.
        placement: where the transformer's weights are. None: resident, where it was loaded.
        on_step: called after each step, with the line that was written to `metrics.jsonl`.
        should_stop: asked after each step; True ends the training with a checkpoint.

    Raises:
        TrainingInterrupted: `should_stop` said so.
        TrainingDiverged: a loss or gradient is not finite; names the step and its samples.
        ForeignCheckpoint: the checkpoints in `directory` are of another `run_fingerprint`.
        NothingToTrain, UnknownTarget: the data or the recipe's lora_targets give nothing to train.
    """
    settings, entries = recipe.training, source.entries()
    plan = BatchPlan(
        entries,
        seed=settings.seed,
        batch_size=settings.train_batch_size,
        caption_dropout=settings.caption_dropout_probability,
    )
    placement = placement or Placement.as_it_is(transformer)
    device = placement.device
    targets = target_modules(
        transformer,
        with_audio=any(e.has_audio for e in entries),
        with_video=any(e.has_video for e in entries),
        suffixes=recipe.lora.lora_targets,
    )
    add_lora(transformer, recipe.lora, targets, settings.seed)
    placement.hold_adapter(lora_parameters(transformer).values())
    state = _TrainingState(transformer, settings, device)
    done = state.resume(directory, run_fingerprint)

    transformer.train()
    if settings.gradient_checkpointing:
        placement.enable_checkpointing()
    accelerator = _accelerator(settings, device)
    model = accelerator.prepare(transformer)

    def load(number: int) -> Batch:
        visits = plan.batch_at(number)
        return collate([v.sample_id for v in visits], [source.load(v.sample_id, v.caption) for v in visits])

    accumulation, total = settings.gradient_accumulation_steps, settings.max_train_steps
    with (
        _reference_modulation(transformer),
        MetricsLog(directory / METRICS_FILE, continue_from=done) as record,
        Prefetcher(load, done * accumulation, total * accumulation) as data,
    ):
        for step in range(done + 1, total + 1):
            started, waited_s = time.monotonic(), data.waited_s
            parts: list[_Values] = []
            sample_ids: list[str] = []

            for number in range((step - 1) * accumulation, step * accumulation):
                batch = data.take().to(device)
                sample_ids += batch.sample_ids
                with accelerator.accumulate(model), _derived_dropout(settings.seed, number, device):
                    loss = batch_losses(model, connectors, batch, settings, number, max_tokens)
                    parts.append(_Values.of(loss))
                    _require_finite("loss", parts[-1].total, step, batch.sample_ids)
                    accelerator.backward(loss.total)

            grad_norm = float(accelerator.clip_grad_norm_(state.parameters.values(), settings.max_grad_norm))
            _require_finite("gradient", grad_norm, step, sample_ids)
            learning_rate = state.scheduler.get_last_lr()[0]
            state.advance()

            epoch = plan.epoch_at(step * accumulation - 1)
            times = time.monotonic() - started, data.waited_s - waited_s
            metrics = _step_metrics(step, epoch, parts, sample_ids, learning_rate, grad_norm, times)
            record.append(metrics)
            on_step(metrics)

            stop = step < total and should_stop()
            if stop or step == total or step % settings.checkpoint_step_interval == 0:
                write_checkpoint(
                    directory, state.checkpoint(step, run_fingerprint), settings.checkpoints_total_limit
                )
            if stop:
                raise TrainingInterrupted(step)

    transformer.eval()
    return _result(read_metrics(directory / METRICS_FILE))


def batch_losses(
    model: Any, connectors: Any, batch: Batch, settings: TrainingSettings, number: int, max_tokens: int
) -> Losses:
    """The losses of batch `number`: noise it, predict velocities, compare.

    A batch without sound, or without pictures, is computed with the modalities isolated and has no loss of
    the one that it lacks.
    """
    noised = noise_batch(batch, settings, number)
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


class _TrainingState:
    """What changes while training, and what a checkpoint holds of it."""

    def __init__(self, transformer: nn.Module, settings: TrainingSettings, device: torch.device) -> None:
        self._transformer = transformer
        self.parameters = lora_parameters(transformer)
        self.optimizer = make_optimizer(self.parameters, settings, device)
        self.scheduler = make_scheduler(self.optimizer, settings)

    def advance(self) -> None:
        """One optimizer step with the gradients that are there."""
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)

    def checkpoint(self, step: int, run_fingerprint: str) -> Checkpoint:
        return Checkpoint(
            step=step,
            run_fingerprint=run_fingerprint,
            lora=dict(self.parameters),
            moments=moments(self.optimizer, self.parameters),
            schedule=schedule_state(self.scheduler),
        )

    def resume(self, directory: Path, run_fingerprint: str) -> int:
        """Continue from the newest whole checkpoint; returns the steps that are done."""
        found = latest(directory)
        if found is None:
            return 0
        if found.run_fingerprint != run_fingerprint:
            raise ForeignCheckpoint(
                f"{directory} holds checkpoints of the training {found.run_fingerprint[:16]}, but this one "
                f"is {run_fingerprint[:16]}: weights, data or recipe differ; give another directory"
            )
        load_lora(self._transformer, found.lora)
        load_moments(self.optimizer, self.parameters, found.moments)
        load_schedule(self.scheduler, found.schedule)
        return found.step


def _accelerator(settings: TrainingSettings, device: torch.device) -> Any:
    from accelerate import Accelerator

    return Accelerator(
        mixed_precision=settings.mixed_precision,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        cpu=device.type == "cpu",
        # The model is where its loader put it.
        device_placement=False,
    )


@contextmanager
def _reference_modulation(transformer: Any) -> Iterator[None]:
    modulation = install_cross_modulation(transformer)
    try:
        yield
    finally:
        modulation.remove()


@contextmanager
def _derived_dropout(seed: int, number: int, device: torch.device) -> Iterator[None]:
    """Let dropout, which knows only the global generator, draw from the seed of batch `number`."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive_seed(seed, "train-lora", number, "dropout"))
        yield


@dataclass(frozen=True)
class _Values:
    """`Losses` as plain numbers."""

    total: float
    video: float | None
    audio: float | None

    @classmethod
    def of(cls, loss: Losses) -> _Values:
        video, audio = (None if part is None else part.item() for part in (loss.video, loss.audio))
        return cls(loss.total.item(), video, audio)


def _step_metrics(
    step: int,
    epoch: int,
    parts: list[_Values],
    sample_ids: list[str],
    learning_rate: float,
    grad_norm: float,
    times: tuple[float, float],
) -> StepMetrics:
    pictures = [part.video for part in parts if part.video is not None]
    sounds = [part.audio for part in parts if part.audio is not None]
    peaks = measure_peaks()
    return StepMetrics(
        step=step,
        epoch=epoch,
        loss=_mean([part.total for part in parts]),
        video_loss=_mean(pictures) if pictures else None,
        audio_loss=_mean(sounds) if sounds else None,
        learning_rate=learning_rate,
        grad_norm=grad_norm,
        step_s=times[0],
        data_wait_s=times[1],
        peak_vram_bytes=peaks.vram_bytes,
        peak_rss_bytes=peaks.rss_bytes,
        sample_ids=tuple(sample_ids),
    )


def _require_finite(what: str, value: float, step: int, sample_ids: Any) -> None:
    if not math.isfinite(value):
        raise TrainingDiverged(
            f"the {what} of step {step} is {value}; its samples: {', '.join(sample_ids)}. "
            "Lower learning_rate, or look at these clips' latents"
        )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _result(metrics: list[StepMetrics]) -> TrainResult:
    ends = max(1, round(len(metrics) * ENDS_SHARE))
    return TrainResult(
        steps=metrics[-1].step,
        first_loss=_mean([m.loss for m in metrics[:ends]]),
        last_loss=_mean([m.loss for m in metrics[-ends:]]),
        seconds=sum(m.step_s for m in metrics),
        peak_bytes=max(m.peak_vram_bytes or m.peak_rss_bytes for m in metrics),
    )
