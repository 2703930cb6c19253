"""What each stage of a run would do and write, and how long it would take."""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING

from ltxcore.execution.execution import find_result
from ltxcore.jobs.estimate.figures import Planned, PlannedData, StageEstimate, Weights
from ltxcore.jobs.estimate.output_sizes import (
    LatentSizes,
    TextSizes,
    adapter_parameters,
    bytes_per_pixel,
    training_bytes,
    waveform_bytes,
)
from ltxcore.jobs.estimate.rates import Rates
from ltxcore.models.errors import ModelError
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import (
    AUDIO,
    FRAMES,
    JUDGE,
    LATENTS,
    RENDER,
    TEXT,
    TRAIN,
    MissingInput,
    Stage,
)
from ltxcore.pipeline.base.stamp import find_stamp
from ltxcore.pipeline.data.batch_entries import batch_entries
from ltxcore.pipeline.data.held_out import held_out_ids
from ltxcore.pipeline.data.keyframes import keyframe_clips
from ltxcore.pipeline.data.learnable import learnable
from ltxcore.pipeline.data.prompts import all_texts, most_prompts, validation_prompts
from ltxcore.pipeline.data.rendering_size import most_settings, settings_of_clips
from ltxcore.pipeline.data.tables import counted
from ltxcore.pipeline.plan.auto_settings import settle
from ltxcore.stages.embed_frames.teacher_space import TeacherSpace, feature_bytes
from ltxcore.stages.embed_text.request import to_do as embed_text_to_do
from ltxcore.stages.encode_latents.request import spaces_of
from ltxcore.stages.split_audio.request import all_keys as split_audio_all_keys
from ltxcore.stages.split_audio.request import to_do as split_audio_to_do
from ltxcore.stages.train_lora.lora_sides import shown_sides
from ltxcore.stages.train_lora.request import request as train_lora_request
from ltxcore.stages.train_lora.sample_steps import sample_steps
from ltxcore.store.latents import LatentStore
from ltxcore.store.snapshot import Sample
from ltxcore.store.texts import TextStore
from ltxcore.store.waveforms import WaveformStore

if TYPE_CHECKING:
    from ltxcore.training.batch_entry import Entry


def most_there_can_be(ctx: Context, files: int) -> list[StageEstimate]:
    """A quick count, before any file has been probed."""
    why = "the files have not been looked at yet; `ltx2 stage probe-media` does that"
    most = (f"at most so many: {why}",)
    renderings = _of_prompts(ctx, most_prompts(ctx.recipe), len(most_settings(ctx))) if files else 0
    return [
        StageEstimate(AUDIO, files, "clips", None, None, notes=most),
        StageEstimate(LATENTS, 2 * files, "tracks", None, None, notes=most),
        StageEstimate(TEXT, None, "captions", None, None, notes=(why,)),
        *([StageEstimate(FRAMES, files, "clips", None, None, notes=most)] if _crepa(ctx) else []),
        StageEstimate(TRAIN, ctx.recipe.training.max_train_steps or None, "steps", None, None, notes=(why,)),
        StageEstimate(RENDER, renderings, "renderings", None, None, notes=most),
        *([StageEstimate(JUDGE, None, "clips", None, 0, notes=(why,))] if ctx.recipe.promotion else []),
    ]


def nothing_to_do(ctx: Context) -> list[StageEstimate]:
    """Estimates if every file has been probed and none can be used."""
    why = ("no clip can be used",)
    found = most_there_can_be(ctx, 0)
    return [replace(stage, to_do=0, disk_bytes=0, notes=why) for stage in found]


def stage_estimates(
    ctx: Planned, data: PlannedData, rates: Rates, weights: Weights = Weights.HERE
) -> list[StageEstimate]:
    """Estimates of every stage after probe-media that the recipe needs.

    Args:
        weights: where they are not here, `ctx.source` is a released model, or raises for one of no known
            size; nothing that is stored can be found then, since its keys are made of the weights.
    """
    partly: tuple[str, ...] = ()
    if data.scale > 1:
        partly = (f"from {1 / data.scale:.0%} of the files, the others are taken to be like them",)
    stages = [_audio(ctx, data, rates, partly)]
    try:
        model = LatentSizes.of(ctx.source)
    except ModelError as error:
        missing = f"the model is not on this machine, so its part is not known: {error}"
        return [*stages, *_without_model(ctx, data, rates, (*partly, missing))]
    if weights is not Weights.HERE:
        return [*stages, *_without_weights(ctx, data, model, rates, partly)]
    notes = partly
    return [
        *stages,
        _latents(ctx, data, model, rates, notes),
        _text(ctx, data, rates, notes),
        *_frames(ctx, data, rates, notes),
        _train(ctx, data, rates, partly),
        _render(ctx, data, rates),
        *_judge(ctx, data, rates),
    ]


def _judge(ctx: Planned, data: PlannedData, rates: Rates, here: bool = True) -> list[StageEstimate]:
    """The held-out clips, each measured with base, champion and challenger; nothing without a gate.

    Args:
        here: whether the weights are, without which nothing can be found to be in place.
    """
    if ctx.recipe.promotion is None:
        return []
    if here and data.scale == 1 and _is_in_place(JUDGE, ctx):
        return [StageEstimate(JUDGE, 0, "clips")]
    clips = data.scaled(len(held_out_ids(ctx.recipe.evaluation, data.samples)))
    return [StageEstimate(JUDGE, clips, "clips", None, 0, rates.seconds(JUDGE, clips))]


def _audio(ctx: Planned, data: PlannedData, rates: Rates, notes: tuple[str, ...]) -> StageEstimate:
    waiting = split_audio_to_do(ctx, WaveformStore(ctx.store))
    total = len(set(split_audio_all_keys(ctx)))
    to_do = data.scaled(len(waiting))
    size = data.scaled(sum(waveform_bytes(cut.sound) for cut in waiting))
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
        for key, size in zip(
            reversed(spaces.keys(sample)), reversed(sizes.tracks(sample, spaces.beside(sample))), strict=False
        )
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
    waiting = embed_text_to_do(ctx, store)
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
    """The estimate of CREPA's features; empty if it is off."""
    if not _crepa(ctx):
        return []
    seen = [sample for sample in data.samples if sample.kind != "audio"]
    try:
        space, width = TeacherSpace.of(ctx), ctx.teacher.width
    except ModelError as error:
        note = f"the teacher is not on this machine, so its part is not known: {error}"
        return [StageEstimate(FRAMES, data.scaled(len(seen)), "clips", None, None, notes=(*notes, note))]
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
    if data.scale == 1 and find_stamp(ctx.workspace, TRAIN, train_lora_request(ctx)) is not None:
        return StageEstimate(TRAIN, 0, "steps")
    steps = _steps(ctx, data)
    return StageEstimate(
        TRAIN,
        steps,
        "steps",
        0,
        training_bytes(_parameters(ctx, data), steps, ctx.recipe.training),
        rates.seconds(TRAIN, steps, transformer=settle(ctx).source.fingerprint("transformer")),
        notes if ctx.recipe.training.num_train_epochs else (),
    )


def _parameters(ctx: Planned, data: PlannedData) -> int:
    """Trained parameters of the adapter."""
    has_sound = any(sample.audio for sample in data.samples)
    has_video = any(sample.kind != "audio" for sample in data.samples)
    return adapter_parameters(ctx.source, ctx.recipe.lora, has_sound, has_video, ctx.recipe.given.frozen)


def _steps(ctx: Planned, data: PlannedData) -> int:
    """Optimizer steps, from max_train_steps or from epochs."""
    if not ctx.recipe.training.num_train_epochs:
        return ctx.recipe.training.max_train_steps
    from ltxcore.training.batch_schedule import BatchSchedule, steps_of_epochs

    plan = BatchSchedule.of(planned_batch_entries(ctx, data), settle(ctx).recipe.training)
    return data.scaled(steps_of_epochs(ctx.recipe, plan.batches_per_epoch))


def planned_batch_entries(ctx: Context, data: PlannedData) -> list[Entry]:
    """The entries of which the training's batches would consist."""
    apart = held_out_ids(ctx.recipe.evaluation, data.samples)
    return batch_entries(learnable(data.samples, ctx.recipe.given), apart)


def _sides(ctx: Context) -> int:
    """Renderings of a prompt: one for the base and one for each LoRA that is shown."""
    return 1 + len(shown_sides(ctx.recipe.training))


def _renderings(ctx: Planned) -> int:
    """All renderings."""
    return _of_prompts(ctx, len(validation_prompts(ctx.recipe, ctx.snapshot)), len(settings_of_clips(ctx)))


def _of_prompts(ctx: Context, prompts: int, sizes: int) -> int:
    """Renderings of all prompts in all sizes, with each adapter, for the base and each LoRA."""
    return _sides(ctx) * len(ctx.recipe.validation.adapter_runs) * sizes * prompts


def _render(ctx: Planned, data: PlannedData, rates: Rates) -> StageEstimate:
    if data.scale == 1 and _is_in_place(RENDER, ctx):
        return StageEstimate(RENDER, 0, "renderings")
    return _renderings_to_make(ctx, data, rates, ctx.source.fingerprint("vae"))


def _renderings_to_make(ctx: Planned, data: PlannedData, rates: Rates, vae: str | None) -> StageEstimate:
    """All renderings of the end, and how many there are in the pauses before it."""
    plans, renderings = settings_of_clips(ctx), _renderings(ctx)
    pixels = sum(plan.pixels for plan in plans) / len(plans)
    rate, measured = bytes_per_pixel(ctx.workspace)
    source = "as the newest gallery" if measured else "as usual for H.264; noise takes ten times as much"
    last = _steps(ctx, data)
    stops = len(list(takewhile(lambda step: step < last, sample_steps(ctx.recipe))))
    # The base model is rendered once.
    pauses = stops * (renderings - renderings // _sides(ctx))
    notes = [f"disk: about, {source}"] if renderings else []
    if pauses:
        notes.append(
            f"time: with {counted(pauses, 'rendering')} in {counted(stops, 'pause')} of the training"
        )
    return StageEstimate(
        RENDER,
        renderings,
        "renderings",
        None,
        round((renderings + pauses) * pixels * rate),
        None if vae is None else rates.seconds(RENDER, renderings + pauses, vae=vae),
        tuple(notes),
        pauses=pauses,
    )


def _is_in_place(stage: Stage, ctx: Planned) -> bool:
    try:
        return find_result(stage, ctx)[1] is not None
    except MissingInput:
        return False  # Of a training that has not been done.


def _without_weights(
    ctx: Planned, data: PlannedData, sizes: LatentSizes, rates: Rates, notes: tuple[str, ...]
) -> list[StageEstimate]:
    """All that shapes tell; whether something of it is stored already is known with the weights alone."""
    tracks = [size for sample in data.samples for size in _tracks(ctx, sample, sizes)]
    texts, text_sizes = all_texts(ctx.recipe, ctx.snapshot), TextSizes.of(ctx.source, TextStore(ctx.store))
    about = f"disk: about, at {text_sizes.tokens_per_character:.2f} tokens a character"
    captions = data.scaled(sum(text_sizes.caption(text) for text in texts))
    steps = _steps(ctx, data)
    return [
        StageEstimate(
            LATENTS, data.scaled(len(tracks)), "tracks", None, data.scaled(sum(tracks)), notes=notes
        ),
        StageEstimate(TEXT, data.scaled(len(texts)), "captions", None, captions, notes=(*notes, about)),
        *_frames(ctx, data, rates, notes),
        StageEstimate(
            TRAIN, steps, "steps", None, training_bytes(_parameters(ctx, data), steps, ctx.recipe.training)
        ),
        _renderings_to_make(ctx, data, rates, None),
        *_judge(ctx, data, rates, here=False),
    ]


def _tracks(ctx: Planned, sample: Sample, sizes: LatentSizes) -> list[int]:
    """Bytes of what is encoded of a sample; of a sound alone nothing but the sound."""
    keyframes = keyframe_clips(sample, ctx.recipe.given.video.keyframes)
    beside = (*sample.conditioning_clips, *(picture for _, picture in keyframes))
    tracks = sizes.tracks(sample, beside)
    return tracks[-1:] if sample.kind == "audio" else tracks


def _without_model(
    ctx: Planned, data: PlannedData, rates: Rates, notes: tuple[str, ...]
) -> list[StageEstimate]:
    """Counts only: sizes and stored results depend on the model."""
    samples = data.samples
    tracks = data.scaled(sum((s.kind != "audio") + (s.audio is not None) for s in samples))
    texts = data.scaled(len(all_texts(ctx.recipe, ctx.snapshot)))
    renderings = _renderings(ctx)
    return [
        StageEstimate(LATENTS, tracks, "tracks", None, None, notes=notes),
        StageEstimate(TEXT, texts, "captions", None, None, notes=notes),
        *_frames(ctx, data, rates, notes),
        StageEstimate(TRAIN, _steps(ctx, data), "steps", None, None, notes=notes),
        StageEstimate(RENDER, renderings, "renderings", None, None, notes=notes),
        *_judge(ctx, data, rates, here=False),
    ]
