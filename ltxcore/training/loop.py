"""The training loop. It reads as the algorithm; what a step is made of is in the other files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ltxcore.config.recipe import Recipe
from ltxcore.memory.measure import measure_peaks
from ltxcore.memory.placement import Placement
from ltxcore.models.modulation import install_cross_modulation
from ltxcore.training.batch_sizes import batch_sizes
from ltxcore.training.checkpoints import write_checkpoint
from ltxcore.training.data import Batch, SampleSource, collate
from ltxcore.training.lora import add_lora, lora_parameters, target_modules
from ltxcore.training.metrics import METRICS_FILE, MetricsLog, StepMetrics, read_metrics
from ltxcore.training.plan import BatchPlan
from ltxcore.training.prefetch import Prefetcher
from ltxcore.training.processes import Processes, clip_norm
from ltxcore.training.state import TrainingState
from ltxcore.training.step import (
    BatchLosses,
    StepLosses,
    batch_losses,
    derived_dropout,
    require_finite,
)

ENDS_SHARE = 0.1
"""First and last loss are means over this share of the steps."""


class TrainingInterrupted(Exception):
    """The training was asked to stop, and did so after writing a checkpoint of `step`."""

    def __init__(self, step: int) -> None:
        super().__init__(f"training stopped on request after step {step}; its checkpoint is written")
        self.step = step


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
    settings = recipe.training
    entries = source.entries()
    plan = BatchPlan(
        entries,
        seed=settings.seed,
        batch_size=batch_sizes(entries, settings.train_batch_size),
        caption_dropout=settings.caption_dropout_probability,
    )
    placement = placement or Placement.as_it_is(transformer)
    device = placement.device
    processes = Processes(settings, recipe.processes, device)
    _adapt(transformer, source, recipe, placement)
    transformer.train()
    if settings.gradient_checkpointing:
        placement.enable_checkpointing()
    state = TrainingState(lora_parameters(transformer), settings, device)
    model = processes.prepare(transformer, state)
    state.follow(lora_parameters(transformer))
    done = state.resume(directory, run_fingerprint)

    def load(own: int) -> Batch:
        visits = plan.batch_at(processes.number(own))
        return collate([v.sample_id for v in visits], [source.load(v.sample_id, v.caption) for v in visits])

    def compute(step: int, data: Prefetcher[Batch]) -> StepLosses:
        """Accumulate the gradients of a step."""
        losses = StepLosses(step)
        for own in range((step - 1) * accumulation, step * accumulation):
            number, batch = processes.number(own), data.take().to(device)
            with processes.accumulate(), derived_dropout(settings.seed, number, device):
                loss = batch_losses(model, connectors, batch, recipe, number, max_tokens)
                losses.batches.append(BatchLosses.of(number, batch.sample_ids, loss))
                processes.accelerator.backward(loss.total)
        return processes.merged(losses)

    accumulation, total = settings.gradient_accumulation_steps, settings.max_train_steps
    with (
        _reference_modulation(transformer),
        MetricsLog(directory / METRICS_FILE, continue_from=done, writes=processes.first) as record,
        Prefetcher(load, done * accumulation, total * accumulation) as data,
    ):
        for step in range(done + 1, total + 1):
            started, waited_s = time.monotonic(), data.waited_s
            losses = compute(step, data)
            losses.require_finite()
            processes.forget_unreached(state.parameters, losses)
            grad_norm = clip_norm(state.parameters.values(), settings.max_grad_norm)
            require_finite("gradient", grad_norm, step, losses.sample_ids)
            learning_rate = state.learning_rate
            state.advance()

            epoch = plan.epoch_at(step * recipe.batches_a_step - 1)
            times = time.monotonic() - started, data.waited_s - waited_s
            metrics = _step_metrics(losses, epoch, learning_rate, grad_norm, times)
            record.append(metrics)
            on_step(metrics)

            stop = processes.agreed(step < total and should_stop())
            if stop or step == total or step % settings.checkpoint_step_interval == 0:
                checkpoint = state.checkpoint(step, run_fingerprint)
                if processes.first:
                    write_checkpoint(directory, checkpoint, settings.checkpoints_total_limit)
            if stop:
                raise TrainingInterrupted(step)

        processes.wait()
    transformer.eval()
    return training_result(directory)


def _adapt(transformer: Any, source: SampleSource, recipe: Recipe, placement: Placement) -> None:
    """Give the transformer its LoRA, where the weights that it adapts are."""
    entries = source.entries()
    targets = target_modules(
        transformer,
        with_audio=any(e.has_audio for e in entries),
        with_video=any(e.has_video for e in entries),
        suffixes=recipe.lora.lora_targets,
    )
    add_lora(transformer, recipe.lora, targets, recipe.training.seed)
    placement.hold_adapter(lora_parameters(transformer).values())


@contextmanager
def _reference_modulation(transformer: Any) -> Iterator[None]:
    modulation = install_cross_modulation(transformer)
    try:
        yield
    finally:
        modulation.remove()


def _step_metrics(
    losses: StepLosses,
    epoch: int,
    learning_rate: float,
    grad_norm: float,
    times: tuple[float, float],
) -> StepMetrics:
    peaks = measure_peaks()
    return StepMetrics(
        step=losses.step,
        epoch=epoch,
        loss=losses.total,
        video_loss=losses.video,
        audio_loss=losses.audio,
        measures=losses.measures,
        learning_rate=learning_rate,
        grad_norm=grad_norm,
        step_s=times[0],
        data_wait_s=times[1],
        peak_vram_bytes=peaks.vram_bytes,
        peak_rss_bytes=peaks.rss_bytes,
        sample_ids=losses.sample_ids,
    )


def training_result(directory: Path) -> TrainResult:
    """What the training in a directory came to, from its record."""
    metrics = read_metrics(directory / METRICS_FILE)
    ends = max(1, round(len(metrics) * ENDS_SHARE))
    return TrainResult(
        steps=metrics[-1].step,
        first_loss=fmean(m.loss for m in metrics[:ends]),
        last_loss=fmean(m.loss for m in metrics[-ends:]),
        seconds=sum(m.step_s for m in metrics),
        peak_bytes=max(m.peak_vram_bytes or m.peak_rss_bytes for m in metrics),
    )
