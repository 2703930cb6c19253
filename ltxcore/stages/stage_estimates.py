"""What each stage of a run would do, write and take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from ltxcore.memory.plan import MemoryPlan
from ltxcore.models.errors import ModelError
from ltxcore.stages import embed_text, split_audio, train_lora
from ltxcore.stages.context import Context
from ltxcore.stages.contract import AUDIO, FRAMES, LATENTS, RENDER, TEXT, TRAIN, MissingInput, Stage
from ltxcore.stages.encode_latents import spaces_of
from ltxcore.stages.entries import entries_of
from ltxcore.stages.held_out import held_out_ids
from ltxcore.stages.learnable import learnable
from ltxcore.stages.lora_sides import shown_sides
from ltxcore.stages.output_sizes import (
    LatentSizes,
    TextSizes,
    adapter_parameters,
    bytes_per_pixel,
    training_bytes,
    waveform_bytes,
)
from ltxcore.stages.prompts import DEFAULT_PROMPTS, all_texts, validation_prompts
from ltxcore.stages.rates import Rates
from ltxcore.stages.run import find_result
from ltxcore.stages.stamp import find_stamp
from ltxcore.stages.teacher_space import TeacherSpace, feature_bytes
from ltxcore.stages.validation_clips import plan_of_clips
from ltxcore.store.latents import LatentStore
from ltxcore.store.snapshot import Sample, Snapshot
from ltxcore.store.texts import TextStore
from ltxcore.store.waveforms import WaveformStore
from ltxcore.validation.plan import plan_rendering

if TYPE_CHECKING:
    from ltxcore.training.data import Entry


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


@dataclass
class PlannedData:
    """The samples that can be planned already, and how many times more files there are."""

    snapshot: Snapshot | None
    scale: float = 1.0
    problems: list[str] = field(default_factory=list)

    @property
    def samples(self) -> Sequence[Sample]:
        return () if self.snapshot is None else self.snapshot.samples

    def scaled(self, number: float) -> int:
        return round(number * self.scale)


def most_there_can_be(ctx: Context, files: int) -> list[StageEstimate]:
    """A quick count, where no file has been looked at."""
    why = "the files have not been looked at yet; `ltx2 stage probe-media` does that"
    most = (f"at most so many: {why}",)
    settings = ctx.recipe.validation
    prompts = 0 if settings.validation_disable else len(settings.validation_prompts) or DEFAULT_PROMPTS
    return [
        StageEstimate(AUDIO, files, "clips", None, None, notes=most),
        StageEstimate(LATENTS, 2 * files, "tracks", None, None, notes=most),
        StageEstimate(TEXT, None, "captions", None, None, notes=(why,)),
        *([StageEstimate(FRAMES, files, "clips", None, None, notes=most)] if _crepa(ctx) else []),
        StageEstimate(TRAIN, ctx.recipe.training.max_train_steps or None, "steps", None, None, notes=(why,)),
        StageEstimate(RENDER, _sides(ctx) * prompts, "renderings", None, None, notes=most),
    ]


def nothing_to_do(ctx: Context) -> list[StageEstimate]:
    """Where every file has been looked at and none can be used."""
    why = ("no clip can be used",)
    found = most_there_can_be(ctx, 0)
    return [replace(stage, to_do=0, disk_bytes=0, notes=why) for stage in found]


def stage_estimates(ctx: Planned, data: PlannedData, rates: Rates) -> list[StageEstimate]:
    """Every stage after probe-media that the recipe asks for, with what is known of it."""
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
        return [*stages, *_without_model(ctx, data, rates, notes)]
    return [
        *stages,
        _latents(ctx, data, model, rates, notes),
        _text(ctx, data, rates, notes),
        *_frames(ctx, data, rates, notes),
        _train(ctx, data, rates, partly),
        _render(ctx, data, rates),
    ]


def _audio(ctx: Planned, data: PlannedData, rates: Rates, notes: tuple[str, ...]) -> StageEstimate:
    waiting = split_audio.to_do(ctx, WaveformStore(ctx.store))
    total = len(set(split_audio.all_keys(ctx)))
    to_do = data.scaled(len(waiting))
    size = data.scaled(sum(waveform_bytes(sample) for sample in waiting))
    return StageEstimate(
        AUDIO, to_do, "clips", total - len(waiting), size, rates.seconds(AUDIO, to_do), notes
    )


def _latents(
    ctx: Planned, data: PlannedData, sizes: LatentSizes, rates: Rates, notes: tuple[str, ...]
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


def _text(ctx: Planned, data: PlannedData, rates: Rates, notes: tuple[str, ...]) -> StageEstimate:
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


def _crepa(ctx: Context) -> bool:
    return ctx.recipe.crepa.crepa_enabled


def _frames(ctx: Planned, data: PlannedData, rates: Rates, notes: tuple[str, ...]) -> list[StageEstimate]:
    """CREPA's features; nothing where it is off."""
    if not _crepa(ctx):
        return []
    seen = [sample for sample in data.samples if sample.kind != "audio"]
    try:
        space, width = TeacherSpace.of(ctx), ctx.teacher.width
    except ModelError as error:
        told = f"the teacher is not on this machine, so its part is not known: {error}"
        return [StageEstimate(FRAMES, data.scaled(len(seen)), "clips", None, None, notes=(*notes, told))]
    sizes = {space.key(sample).value: feature_bytes(sample, width) for sample in seen}
    waiting = LatentStore(ctx.store).missing(sizes)
    to_do = data.scaled(len(waiting))
    return [
        StageEstimate(
            FRAMES,
            to_do,
            "clips",
            len(sizes) - len(waiting),
            data.scaled(sum(sizes[key] for key in waiting)),
            rates.seconds(FRAMES, to_do, **space.request()),
            notes,
        )
    ]


def _train(ctx: Planned, data: PlannedData, rates: Rates, notes: tuple[str, ...]) -> StageEstimate:
    # What is held out of a part of the files may be none of them, or all, which a request refuses.
    if data.scale == 1 and find_stamp(ctx.workspace, TRAIN, train_lora.request(ctx)) is not None:
        return StageEstimate(TRAIN, 0, "steps")
    steps = _steps(ctx, data)
    has_sound = any(sample.audio for sample in data.samples)
    has_video = any(sample.kind != "audio" for sample in data.samples)
    frozen = ctx.recipe.given.frozen
    parameters = adapter_parameters(ctx.source, ctx.recipe.lora, has_sound, has_video, frozen)
    return StageEstimate(
        TRAIN,
        steps,
        "steps",
        0,
        training_bytes(parameters, steps, ctx.recipe.training),
        rates.seconds(TRAIN, steps, transformer=ctx.settled.source.fingerprint("transformer")),
        notes if ctx.recipe.training.num_train_epochs else (),
    )


def _steps(ctx: Planned, data: PlannedData) -> int:
    """Optimizer steps, also where the recipe gives epochs."""
    if not ctx.recipe.training.num_train_epochs:
        return ctx.recipe.training.max_train_steps
    from ltxcore.training.plan import BatchPlan, steps_of_epochs

    plan = BatchPlan.of(planned_entries(ctx, data), ctx.settled.recipe.training)
    return data.scaled(steps_of_epochs(ctx.recipe, plan.batches_per_epoch))


def planned_entries(ctx: Context, data: PlannedData) -> list[Entry]:
    """What the batch plan would be made of."""
    apart = held_out_ids(ctx.recipe.evaluation, data.samples)
    return entries_of(learnable(data.samples, ctx.recipe.given), apart)


def _sides(ctx: Context) -> int:
    """Renderings of a prompt: the base's, and those of the LoRAs that are shown."""
    return 1 + len(shown_sides(ctx.recipe.training))


def _render(ctx: Planned, data: PlannedData, rates: Rates) -> StageEstimate:
    if data.scale == 1 and _is_rendered(ctx):
        return StageEstimate(RENDER, 0, "renderings")
    runs = ctx.recipe.validation.adapter_runs
    renderings = _sides(ctx) * len(runs) * len(validation_prompts(ctx.recipe, ctx.snapshot))
    plan = plan_of_clips(ctx, plan_rendering(ctx.recipe.validation))
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


def _is_rendered(ctx: Planned) -> bool:
    try:
        return find_result(RENDER, ctx)[1] is not None
    except MissingInput:
        return False  # Of a training that has not been done.


def _without_model(
    ctx: Planned, data: PlannedData, rates: Rates, notes: tuple[str, ...]
) -> list[StageEstimate]:
    """Counts alone: sizes, and what is in the store already, depend on the model."""
    samples = data.samples
    tracks = data.scaled(sum((s.kind != "audio") + (s.audio is not None) for s in samples))
    texts = data.scaled(len(all_texts(ctx.recipe, ctx.snapshot)))
    runs = ctx.recipe.validation.adapter_runs
    renderings = _sides(ctx) * len(runs) * len(validation_prompts(ctx.recipe, ctx.snapshot))
    return [
        StageEstimate(LATENTS, tracks, "tracks", None, None, notes=notes),
        StageEstimate(TEXT, texts, "captions", None, None, notes=notes),
        *_frames(ctx, data, rates, notes),
        StageEstimate(TRAIN, _steps(ctx, data), "steps", None, None, notes=notes),
        StageEstimate(RENDER, renderings, "renderings", None, None, notes=notes),
    ]
