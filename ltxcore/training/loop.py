"""The training loop. It reads as the algorithm; the parts of a step are in other files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ltxcore.config.recipe import Recipe
from ltxcore.memory.measure import measure_peaks
from ltxcore.memory.placement import Placement
from ltxcore.models.lora.header import LoraHeader
from ltxcore.models.modulation import install_cross_modulation
from ltxcore.store.blobs import read_json
from ltxcore.training.batch_schedule import BatchSchedule
from ltxcore.training.checkpoints import write_checkpoint
from ltxcore.training.compilation import compile_blocks
from ltxcore.training.control import NOTHING, Control, Undisturbed, Wishes
from ltxcore.training.crepa import Alignment
from ltxcore.training.data import SampleSource, collate
from ltxcore.training.early_stop import EVALUATIONS_FILE, Evaluate, Guide, best_of, read_evaluations
from ltxcore.training.extras import require_optimizer
from ltxcore.training.first_lora import take_over
from ltxcore.training.lora import add_lora, lora_parameters, preset_modules, target_modules
from ltxcore.training.metrics import METRICS_FILE, MetricsLog, StepMetrics, comparable_ends, read_metrics
from ltxcore.training.optimizer import clip_gradients, weights_dtype
from ltxcore.training.prefetch import Prefetcher
from ltxcore.training.preservation import held_to_base
from ltxcore.training.processes import Processes
from ltxcore.training.regularisation import without_adapter
from ltxcore.training.resume import RESUME_FILE, find_start, records_in
from ltxcore.training.state import TrainingState
from ltxcore.training.step import (
    DrawnBatch,
    StepLosses,
    Unread,
    batch_losses,
    derived_dropout,
    require_finite,
)
from ltxcore.training.tread import TokenRouting

Averages = Mapping[str, torch.Tensor]
"""Of the weights, by their names."""
UNDISTURBED: Control = Undisturbed()


class TrainingInterrupted(Exception):
    """The training was asked to stop, and did so after writing a checkpoint of `step`."""

    def __init__(self, step: int) -> None:
        kept = "its checkpoint is written" if step else "there is nothing to keep yet"
        super().__init__(f"training stopped on request after step {step}; {kept}")
        self.step = step

    @property
    def kept(self) -> str:
        """The newest whole checkpoint, if there is one."""
        return f"its checkpoint is at step {self.step}" if self.step else "there is nothing to keep yet"


@dataclass(frozen=True)
class TrainResult:
    """The result of a finished training, over all its steps, including those before a resume."""

    steps: int
    first_loss: float
    last_loss: float
    seconds: float
    """Time inside steps."""
    peak_bytes: int
    """Highest use of device memory, or of host memory where there is no device."""
    resumed_at: int
    """The steps that were done when it began."""
    resume_notes: tuple[str, ...] = ()
    """What there is to say of where it began."""
    threads: int | None = None
    """That each process computed with on the host."""
    ema: Averages | None = field(default=None, compare=False)
    """The averages of the weights, where the recipe keeps them."""
    best_step: int | None = None
    """The step with the lowest loss on held-out clips, whose checkpoint is kept; None without such clips."""
    stopped_early: bool = False
    """Whether the loss on held-out clips ended it."""
    stopped_after: int | None = None
    """The step after which somebody has ended it; None: nobody has."""


def train(
    transformer: Any,
    connectors: Any,
    source: SampleSource,
    recipe: Recipe,
    directory: Path,
    *,
    run_fingerprint: str,
    max_tokens: int,
    request: Mapping[str, Any] | None = None,
    placement: Placement | None = None,
    alignment: Alignment | None = None,
    init_from: LoraHeader | None = None,
    evaluate: Evaluate | None = None,
    keep_weights: Callable[[int, Averages | None], None] = lambda step, averages: None,
    at_start: Callable[[int, Averages | None], None] = lambda step, averages: None,
    on_step: Callable[[StepMetrics], None] = lambda metrics: None,
    should_stop: Callable[[], bool] = lambda: False,
    control: Control = UNDISTURBED,
) -> TrainResult:
    """Train a LoRA on the transformer, continuing from the newest whole checkpoint in `directory`.

    The trained adapter is left in the transformer; `lora_parameters` gives it for `export_lora`. Continued
    training equals undisturbed training: every draw is derived from seed and position.

    Args:
        transformer: `LTX2VideoTransformer3DModel` without adapter, on its device or in its placement;
            float32 where mixed_precision is `no`.
        connectors: `LTX2TextConnectors` on the same device.
        source: the samples.
        recipe: its `lora`, `training` and `evaluation` parts are used.
        directory: gets `metrics.jsonl`, `evaluations.jsonl` and `checkpoint-<step>` directories.
        run_fingerprint: hash of what the result depends on (weights, data, recipe).
        max_tokens: text slots, a multiple of the connectors' registers.
        request: what `run_fingerprint` is the hash of, to say key by key what differs.
        placement: where the transformer's weights are. None: resident, where it was loaded.
        alignment: CREPA on this transformer; its projector is trained with the adapter.
        init_from: a LoRA that the adapter takes over before the first step. None: it begins without effect.
        evaluate: measures the model on held-out clips (`Evaluation`). None: there are none.
        keep_weights: called after each step with its number and the averages of the weights, if there are
            any; the weights are in the transformer.
        at_start: called in the same way before the first step, where the training continues.
        on_step: called after each step, with the line that was written to `metrics.jsonl`.
        should_stop: asked after each step, and where the training continues; True ends the training with a
            checkpoint.
        control: is asked after each step, and where the training continues, for what people wish.

    Raises:
        TrainingInterrupted: `should_stop` said so.
        TrainingDiverged: a loss or gradient is not finite; names the step and its samples.
        ForeignCheckpoint, NoSuchCheckpoint: what the recipe wants continued cannot be, see `find_start`.
        BucketTooSmall: a batch cannot be filled.
        OptimizerMissing: the optimizer's package is not installed.
        NothingToTrain, UnknownTarget: the data or the recipe's lora_targets give nothing to train.
    """
    settings = recipe.training
    require_optimizer(settings.optimizer)
    plan = BatchSchedule.of(source.entries(), settings)
    by_id = {entry.sample_id: entry for entry in source.entries()}
    placement = placement or Placement.as_it_is(transformer)
    device = placement.device
    processes = Processes(settings, recipe.processes, device)
    _adapt(transformer, source, recipe, placement, init_from)
    transformer.train()
    if settings.gradient_checkpointing:
        placement.enable_checkpointing()
    if settings.torch_compile:
        compile_blocks(transformer, settings, placement.arrangement, shapes=plan.groups)
    aligned = alignment.parameters() if alignment else {}
    state = TrainingState(lora_parameters(transformer) | aligned, settings, device)
    model = processes.prepare(transformer, state)
    state.follow(lora_parameters(transformer) | aligned)
    made_of = dict(request or {})
    start = find_start(
        directory, run_fingerprint, made_of, settings.resume_from_checkpoint, settings.max_train_steps
    )
    if start.checkpoint is not None:
        state.resume(start.checkpoint)
    start = start.with_its_threads(recipe.threads, device.type)
    if processes.first:
        start.note(directory)
    # The others read what the first one has put back.
    processes.wait()
    done, total = start.step, settings.max_train_steps
    guide = Guide(
        directory / EVALUATIONS_FILE,
        evaluate,
        recipe.evaluation,
        continue_from=done,
        last=total,
        among=processes,
        averaged=state.averaged,
        exports_ema=settings.exports_ema,
        as_base=nullcontext if init_from is None else without_adapter,
    )

    def load(own: int) -> DrawnBatch:
        number = processes.number(own)
        visits = plan.batch_at(number)
        held = held_to_base(visits, by_id, recipe.preservation, settings.seed, number)
        visits = visits if held is None else held
        batch = collate([v.sample_id for v in visits], [source.load(v.sample_id, v.caption) for v in visits])
        batch = batch if held is None else replace(batch, regularisation=True)
        return DrawnBatch.of(batch, recipe, number, device)

    def compute(step: int, data: Prefetcher[DrawnBatch]) -> StepLosses:
        """Accumulate the gradients of a step. Nothing waits for the device before all is handed to it."""
        found: list[Unread] = []
        for own in range((step - 1) * accumulation, step * accumulation):
            number, drawn = processes.number(own), data.take().to(device)
            with (
                processes.accumulate(),
                derived_dropout(settings.seed, number, device),
                routing.batch(number),
            ):
                loss = batch_losses(model, connectors, drawn, recipe, number, max_tokens)
                loss = alignment.added_to(loss, drawn.batch) if alignment else loss
                found.append(Unread.of(number, drawn.batch, loss))
                processes.accelerator.backward(loss.total)
        if alignment:
            alignment.share_gradients()
        return processes.merged(StepLosses.read(step, found))

    def stops() -> bool:
        return processes.agreed(should_stop())

    def asked(step: int, trained: bool) -> Wishes:
        wishes = processes.agreed(control.read(step, total, trained) if processes.first else NOTHING)
        control.follow(step, wishes)
        return wishes

    accumulation = settings.gradient_accumulation_steps
    with (
        _reference_modulation(transformer),
        _token_routing(transformer, recipe) as routing,
        MetricsLog(directory / METRICS_FILE, continue_from=done, writes=processes.first) as record,
        Prefetcher(load, done * accumulation, total * accumulation) as data,
    ):
        wishes = asked(done, trained=False) if done else NOTHING
        if wishes.save and processes.first:
            control.saved(done)
        if wishes.stop:
            total = done
            guide.end_at(total)
        if not guide.look(model, done, stops):
            raise TrainingInterrupted(done)
        if done:
            at_start(done, state.averages)
            if done < total and stops():
                raise TrainingInterrupted(done)
        for step in range(done + 1, total + 1):
            if guide.enough or step > total:
                break
            started, waited_s = time.monotonic(), data.waited_s
            losses = compute(step, data)
            losses.require_finite()
            processes.forget_unreached(state.parameters, losses)
            grad_norm = clip_gradients(state.parameters.values(), settings)
            require_finite("gradient", grad_norm, step, losses.sample_ids)
            learning_rate = state.learning_rate
            state.advance(step)

            epoch = plan.epoch_at(step * recipe.batches_a_step - 1)
            times = time.monotonic() - started, data.waited_s - waited_s
            metrics = _step_metrics(losses, epoch, learning_rate, grad_norm, times)
            record.append(metrics)
            wishes = asked(step, trained=True)
            if wishes.stop:
                total = step
                guide.end_at(total)
            keep_weights(step, state.averages)
            on_step(metrics)

            looked = guide.look(model, step, stops)
            finished = guide.enough or (looked and step == total)
            stop = not finished and stops()
            due = step % settings.checkpoint_step_interval == 0 or step == guide.best_step
            if stop or finished or due or wishes.save:
                checkpoint = state.checkpoint(step, run_fingerprint, made_of)
                if processes.first:
                    limit = settings.checkpoints_total_limit
                    whole = replace(checkpoint, records=records_in(directory))
                    write_checkpoint(directory, whole, limit, keep=guide.best_step)
                    if wishes.save:
                        control.saved(step)
            if stop:
                raise TrainingInterrupted(step)

        processes.wait()
    transformer.eval()
    result = training_result(directory, settings.max_train_steps, total)
    return replace(result, ema=state.averages)


def _adapt(
    transformer: Any,
    source: SampleSource,
    recipe: Recipe,
    placement: Placement,
    init_from: LoraHeader | None,
) -> None:
    """Add the LoRA to the transformer, beside the weights that it adapts."""
    entries, settings = source.entries(), recipe.lora
    has_audio, has_video = any(e.has_audio for e in entries), any(e.has_video for e in entries)
    preset = None if settings.lycoris is None else settings.lycoris.apply_preset
    if preset is not None and preset.target_module and settings.lora_targets is None:
        targets = preset_modules(transformer, preset.target_module, has_audio, has_video)
    else:
        targets = target_modules(
            transformer, has_audio, settings.lora_targets, has_video, frozen=recipe.given.frozen
        )
    add_lora(transformer, settings, targets, recipe.training.seed, placement.reading)
    adapter = lora_parameters(transformer)
    if init_from is not None:
        take_over(transformer, adapter, settings, init_from, placement.reading)
    for parameter in adapter.values():
        parameter.data = parameter.data.to(weights_dtype(recipe.training))
    placement.hold_adapter(adapter.values())


@contextmanager
def _reference_modulation(transformer: Any) -> Iterator[None]:
    modulation = install_cross_modulation(transformer)
    try:
        yield
    finally:
        modulation.remove()


@contextmanager
def _token_routing(transformer: Any, recipe: Recipe) -> Iterator[TokenRouting]:
    spans = recipe.tread.spans(len(transformer.transformer_blocks))
    routing = TokenRouting(transformer, spans, recipe.training.seed)
    try:
        yield routing
    finally:
        routing.remove()


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
        measures=losses.measures | losses.throughput(times[0]),
        weights=losses.weights,
        learning_rate=learning_rate,
        grad_norm=grad_norm,
        step_s=times[0],
        data_wait_s=times[1],
        peak_vram_bytes=peaks.vram_bytes,
        peak_rss_bytes=peaks.rss_bytes,
        sample_ids=losses.sample_ids,
    )


def training_result(directory: Path, planned: int, last: int | None = None) -> TrainResult:
    """The result of the training in a directory, from its record.

    Args:
        directory: of the training.
        planned: the steps of the recipe.
        last: the step that somebody has made the last one. None: nobody has.
    """
    metrics = read_metrics(directory / METRICS_FILE)
    resume = read_json(directory / RESUME_FILE)
    steps, ends = metrics[-1].step, planned if last is None else last
    first_loss, last_loss = comparable_ends(metrics)
    return TrainResult(
        steps=steps,
        first_loss=first_loss,
        last_loss=last_loss,
        seconds=sum(m.step_s for m in metrics),
        peak_bytes=max(m.peak_vram_bytes or m.peak_rss_bytes for m in metrics),
        resumed_at=resume["step"],
        resume_notes=tuple(resume["notes"]),
        threads=resume.get("threads"),
        best_step=best_of(read_evaluations(directory / EVALUATIONS_FILE)),
        stopped_early=steps < ends,
        stopped_after=steps if steps == ends < planned else None,
    )
