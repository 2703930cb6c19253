"""What a run would do, write and take, before anything is spent: from stats, the store and old stamps."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from ltxcore.memory.plan import MemoryPlan
from ltxcore.models.errors import ModelError
from ltxcore.stages import embed_text, split_audio, train_lora
from ltxcore.stages.context import Context
from ltxcore.stages.contract import AUDIO, LATENTS, PROBE, RENDER, TEXT, TRAIN, Stage
from ltxcore.stages.encode_latents import spaces_of
from ltxcore.stages.memory_check import memory_plans
from ltxcore.stages.output_sizes import (
    LatentSizes,
    TextSizes,
    adapter_parameters,
    bytes_per_pixel,
    training_bytes,
    waveform_bytes,
)
from ltxcore.stages.probe_media import MediaFile, Memo, NothingToTrain, find_files, make_snapshot
from ltxcore.stages.prompts import DEFAULT_PROMPTS, all_texts, validation_prompts
from ltxcore.stages.rates import Rates
from ltxcore.stages.stamp import find_stamp
from ltxcore.store.latents import LatentStore
from ltxcore.store.snapshot import Sample, Snapshot
from ltxcore.store.texts import TextStore
from ltxcore.store.waveforms import WaveformStore
from ltxcore.validation.plan import plan_rendering


@dataclass(frozen=True)
class Planned(Context):
    """A context whose snapshot has been planned in memory, and is not saved."""

    planned: Snapshot | None = None

    @cached_property
    def snapshot(self) -> Snapshot:
        if self.planned is None:
            raise ValueError("nothing is planned")
        return self.planned


@dataclass(frozen=True)
class StageEstimate:
    """What one stage would do. None is a figure that nobody knows yet; `notes` say why."""

    stage: Stage
    to_do: int | None
    unit: str
    in_place: int | None = None
    disk_bytes: int | None = 0
    seconds: float | None = None
    notes: tuple[str, ...] = ()
    memory: MemoryPlan | None = None
    """What it is predicted to hold; None where it loads no model, or that is not known yet."""


@dataclass(frozen=True)
class Estimate:
    """A run, stage by stage."""

    files: int
    looked_at: int
    taken: int
    rejected: int
    stages: tuple[StageEstimate, ...]
    free_bytes: int
    problems: tuple[str, ...] = ()
    """Why a run would fail although the configuration is right."""

    @property
    def disk_bytes(self) -> int:
        return sum(stage.disk_bytes or 0 for stage in self.stages)

    @property
    def seconds(self) -> float | None:
        """The sum, or None where a stage with work has no rate."""
        working = [stage for stage in self.stages if stage.to_do != 0]
        known = [stage.seconds for stage in working if stage.seconds is not None]
        return sum(known) if len(known) == len(working) else None


@dataclass
class _Data:
    """The samples that can be planned already, and how many times more files there are."""

    snapshot: Snapshot | None
    scale: float = 1.0
    problems: list[str] = field(default_factory=list)

    @property
    def samples(self) -> Sequence[Sample]:
        return () if self.snapshot is None else self.snapshot.samples

    def scaled(self, number: float) -> int:
        return round(number * self.scale)


def estimate(ctx: Context) -> Estimate:
    """Estimate a run of the whole pipeline. Reads stats and the store; probes, decodes and writes nothing.

    Raises:
        ConfigError: the datasets are wrong.
    """
    files, memo = find_files(ctx), Memo(ctx)
    unknown = {file.id for file in memo.unknown(files)}
    known = [file for file in files if file.id not in unknown]
    data = _plan(ctx, memo, known, len(files))
    rates = Rates(ctx.workspace)
    probing = StageEstimate(
        PROBE, len(unknown), "files", len(known), seconds=rates.seconds(PROBE, len(unknown))
    )
    stages = [_with_reason(probing, rates)]
    if data.snapshot is None:
        stages += _most_there_can_be(ctx, len(files))
    else:
        planned = Planned(ctx.workspace, ctx.recipe, ctx.datasets_file, planned=data.snapshot)
        found = [_with_reason(stage, rates) for stage in _stages(planned, data, rates)]
        stages += _with_memory(planned, found, data.problems)
    free = shutil.disk_usage(_existing(ctx.workspace.root)).free
    whole = Estimate(
        files=len(files),
        looked_at=len(known),
        taken=len(data.samples),
        rejected=0 if data.snapshot is None else len(data.snapshot.rejections),
        stages=tuple(stages),
        free_bytes=free,
    )
    problems = [*data.problems, *_no_step_left(ctx, whole)]
    if whole.disk_bytes > free:
        problems.append(
            f"{whole.disk_bytes / 1e9:.1f} GB would be written to {ctx.workspace.root}, and "
            f"{free / 1e9:.1f} GB are free there"
        )
    return replace(whole, problems=tuple(problems))


def _plan(ctx: Context, memo: Memo, known: Sequence[MediaFile], total: int) -> _Data:
    if not total:
        return _Data(None, problems=["there are no clips in the datasets"])
    if not known:
        return _Data(None)
    try:
        snapshot = make_snapshot(ctx, memo, known)
    except NothingToTrain as error:
        # Files that nobody has looked at may still turn out well.
        return _Data(None, problems=[str(error)] if len(known) == total else [])
    return _Data(snapshot, total / len(known))


def _most_there_can_be(ctx: Context, files: int) -> list[StageEstimate]:
    """A quick count, where no file has been looked at."""
    why = "the files have not been looked at yet; `ltx2 stage probe-media` does that"
    most = (f"at most so many: {why}",)
    settings = ctx.recipe.validation
    prompts = 0 if settings.validation_disable else len(settings.validation_prompts) or DEFAULT_PROMPTS
    return [
        StageEstimate(AUDIO, files, "clips", None, None, notes=most),
        StageEstimate(LATENTS, 2 * files, "tracks", None, None, notes=most),
        StageEstimate(TEXT, None, "captions", None, None, notes=(why,)),
        StageEstimate(TRAIN, ctx.recipe.training.max_train_steps or None, "steps", None, None, notes=(why,)),
        StageEstimate(RENDER, 2 * prompts, "renderings", None, None, notes=most),
    ]


def _stages(ctx: Planned, data: _Data, rates: Rates) -> list[StageEstimate]:
    partly: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    model: LatentSizes | None = None
    if data.scale > 1:
        partly = (f"from {1 / data.scale:.0%} of the files, the others are taken to be like them",)
    try:
        model = LatentSizes.of(ctx.source)
    except ModelError as error:
        missing = (f"the model is not on this machine, so its part is not known: {error}",)
    notes = (*partly, *missing)
    stages = [_audio(ctx, data, rates, partly)]
    if model is None:
        return [*stages, *_without_model(ctx, data, notes)]
    return [
        *stages,
        _latents(ctx, data, model, rates, notes),
        _text(ctx, data, rates, notes),
        _train(ctx, data, rates, partly),
        _render(ctx, rates),
    ]


def _audio(ctx: Planned, data: _Data, rates: Rates, notes: tuple[str, ...]) -> StageEstimate:
    waiting = split_audio.to_do(ctx, WaveformStore(ctx.store))
    total = len(set(split_audio.all_keys(ctx)))
    to_do = data.scaled(len(waiting))
    size = data.scaled(sum(waveform_bytes(sample) for sample in waiting))
    return StageEstimate(
        AUDIO, to_do, "clips", total - len(waiting), size, rates.seconds(AUDIO, to_do), notes
    )


def _latents(
    ctx: Planned, data: _Data, sizes: LatentSizes, rates: Rates, notes: tuple[str, ...]
) -> StageEstimate:
    store = LatentStore(ctx.store)
    spaces = spaces_of(ctx, store)
    # From the last track on: sound that is trained alone has no picture track.
    tracks = {
        key: size
        for sample in data.samples
        for key, size in zip(reversed(spaces.keys(sample)), reversed(sizes.tracks(sample)), strict=False)
    }
    waiting = store.missing(tracks)
    to_do = data.scaled(len(waiting))
    return StageEstimate(
        LATENTS,
        to_do,
        "tracks",
        len(tracks) - len(waiting),
        data.scaled(sum(tracks[key] for key in waiting)),
        rates.seconds(LATENTS, to_do, vae=spaces.vae),
        notes,
    )


def _text(ctx: Planned, data: _Data, rates: Rates, notes: tuple[str, ...]) -> StageEstimate:
    store = TextStore(ctx.store)
    waiting = embed_text.to_do(ctx, store)
    to_do = data.scaled(len(waiting))
    sizes = TextSizes.of(ctx.source, store)
    about = () if not waiting else (f"disk: about, at {sizes.tokens_per_character:.2f} tokens a character",)
    return StageEstimate(
        TEXT,
        to_do,
        "captions",
        len(all_texts(ctx.recipe, ctx.snapshot)) - len(waiting),
        data.scaled(sum(sizes.caption(text) for text in waiting)),
        rates.seconds(TEXT, to_do, text_encoder=ctx.source.fingerprint("text_encoder")),
        (*notes, *about),
    )


def _train(ctx: Planned, data: _Data, rates: Rates, notes: tuple[str, ...]) -> StageEstimate:
    if find_stamp(ctx.workspace, TRAIN, train_lora.request(ctx)) is not None:
        return StageEstimate(TRAIN, 0, "steps")
    steps = _steps(ctx, data)
    has_sound = any(sample.audio for sample in data.samples)
    has_video = any(sample.kind != "audio" for sample in data.samples)
    parameters = adapter_parameters(ctx.source, ctx.recipe.lora, has_sound, has_video)
    return StageEstimate(
        TRAIN,
        steps,
        "steps",
        0,
        training_bytes(parameters, steps, ctx.recipe.training),
        rates.seconds(TRAIN, steps, transformer=ctx.settled.source.fingerprint("transformer")),
        notes if ctx.recipe.training.num_train_epochs else (),
    )


def _steps(ctx: Planned, data: _Data) -> int:
    """Optimizer steps, also where the recipe gives epochs."""
    if not ctx.recipe.training.num_train_epochs:
        return ctx.recipe.training.max_train_steps
    from ltxcore.training.batch_sizes import batch_sizes
    from ltxcore.training.data import Entry
    from ltxcore.training.plan import BatchPlan, steps_of_epochs

    entries = [
        Entry(
            sample_id=s.id,
            bucket=s.bucket,
            fps=s.frames.fps,
            has_audio=s.audio is not None,
            has_video=s.kind != "audio",
            captions=len(s.captions),
            visits=s.visits,
            probability=s.probability,
        )
        for s in data.samples
    ]
    settings = ctx.settled.recipe.training
    sizes = batch_sizes(entries, settings.train_batch_size)
    plan = BatchPlan(entries, seed=settings.seed, batch_size=sizes, caption_dropout=0.0)
    return data.scaled(steps_of_epochs(ctx.recipe, plan.batches_per_epoch))


def _render(ctx: Planned, rates: Rates) -> StageEstimate:
    renderings = 2 * len(validation_prompts(ctx.recipe, ctx.snapshot))
    plan = plan_rendering(ctx.recipe.validation)
    rate, measured = bytes_per_pixel(ctx.workspace)
    source = "as the newest gallery" if measured else "as usual for H.264; noise takes ten times as much"
    return StageEstimate(
        RENDER,
        renderings,
        "renderings",
        None,
        round(renderings * plan.width * plan.height * plan.num_frames * rate),
        rates.seconds(RENDER, renderings, vae=ctx.source.fingerprint("vae")),
        (f"disk: about, {source}",) if renderings else (),
    )


def _without_model(ctx: Planned, data: _Data, notes: tuple[str, ...]) -> list[StageEstimate]:
    """Counts alone: sizes, and what is in the store already, depend on the model."""
    samples = data.samples
    tracks = data.scaled(sum((s.kind != "audio") + (s.audio is not None) for s in samples))
    texts = data.scaled(len(all_texts(ctx.recipe, ctx.snapshot)))
    renderings = 2 * len(validation_prompts(ctx.recipe, ctx.snapshot))
    return [
        StageEstimate(LATENTS, tracks, "tracks", None, None, notes=notes),
        StageEstimate(TEXT, texts, "captions", None, None, notes=notes),
        StageEstimate(TRAIN, _steps(ctx, data), "steps", None, None, notes=notes),
        StageEstimate(RENDER, renderings, "renderings", None, None, notes=notes),
    ]


def _with_memory(ctx: Planned, stages: list[StageEstimate], problems: list[str]) -> list[StageEstimate]:
    """Add each stage's memory plan; what has none is a problem."""
    working = [found.stage for found in stages if found.to_do]
    try:
        plans, refusals = memory_plans(ctx, working)
    except ModelError:
        # `_stages` has said already that the model is not here.
        return stages
    problems += refusals
    return [replace(found, memory=plans.get(found.stage.name)) for found in stages]


def _with_reason(found: StageEstimate, rates: Rates) -> StageEstimate:
    """Say why there is no time, where there is work."""
    if found.seconds is not None or not found.to_do:
        return found
    why = f"time: no earlier run of {found.stage.name} with this model on this machine"
    return replace(found, notes=(*found.notes, why))


def _no_step_left(ctx: Context, found: Estimate) -> list[str]:
    """Epochs only turn out to be too few when the clips are known."""
    warmup = ctx.recipe.training.lr_warmup_steps
    steps = next(stage.to_do for stage in found.stages if stage.stage is TRAIN)
    if not steps or not warmup or steps > warmup:
        return []
    return [f"the recipe's {steps} steps leave none after lr_warmup_steps {warmup}"]


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())
