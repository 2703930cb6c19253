"""Checks that the datasets have what a recipe's `conditioning` asks for."""

from __future__ import annotations

from collections.abc import Iterator

from ltxcore.config.conditioning_settings import (
    ConditioningSettings,
    FirstFrame,
    Keyframes,
    OneCondition,
    Prefix,
    Suffix,
)
from ltxcore.config.dataset_kinds import ImageDataset, VideoDataset
from ltxcore.config.datasets import Datasets
from ltxcore.config.errors import ConfigError, Problem, nearest
from ltxcore.config.geometry import GEOMETRY
from ltxcore.config.recipe import Recipe

VIDEO, AUDIO = "conditioning.video", "conditioning.audio"
FIRST_FRAME_KEY = "training.ltx2_first_frame_conditioning_probability"


def check_agreement(recipe: Recipe, datasets: Datasets) -> None:
    """Refuse a recipe that these datasets leave nothing to learn, or whose conditions they cannot give.

    Raises:
        ConfigError: one line for each contradiction, naming the key.
    """
    given = recipe.given
    listed = recipe.conditioning.video.conditions
    video_key = f"{VIDEO}.conditions" if listed else FIRST_FRAME_KEY
    problems = [
        *_frozen(given, datasets),
        *_sound(given, datasets, video_key),
        *_conditioned(given, datasets),
        *_weighed(recipe, datasets),
        *_lengths(given, datasets, video_key),
        *_evaluation(recipe, datasets),
    ]
    if problems:
        raise ConfigError(f"the recipe with {datasets.source}", problems)


def _evaluation(recipe: Recipe, datasets: Datasets) -> Iterator[Problem]:
    name, known = recipe.validation.eval_dataset_id, [d.id for d in (*datasets.video, *datasets.image)]
    if name is not None and name not in known:
        yield Problem(
            "validation.eval_dataset_id", f"`{name}` is not a dataset of clips in use; {nearest(name, known)}"
        )
    if recipe.validation.validation_using_datasets and datasets.audio_only:
        yield Problem("validation.validation_using_datasets", "is true, but only sound is trained")
    elif recipe.validation.validation_using_datasets and recipe.validation.validation_modality == "audio":
        yield Problem(
            "validation.validation_modality",
            "is audio, and a sound made alone sees nothing of what validation_using_datasets gives; write "
            "both, or leave validation_using_datasets out",
        )


def _alone(datasets: Datasets) -> list[str]:
    """Ids of the datasets of which only the sound is trained."""
    videos = [d.id for d in datasets.video if d.audio.audio_only]
    return videos + [d.id for d in datasets.audio if d.id not in datasets.linked_ids]


def _silent(datasets: Datasets) -> list[str]:
    """Ids of the datasets whose clips have no sound in the training."""
    videos = [d.id for d in datasets.video if not d.wants_sound and not d.audio.audio_only]
    return videos + [d.id for d in datasets.image]


def _frozen(given: ConditioningSettings, datasets: Datasets) -> Iterator[Problem]:
    if given.audio.frozen:
        for name in _alone(datasets):
            message = f"is frozen, but of `{name}` only the sound is trained: nothing is left to learn"
            yield Problem(f"{AUDIO}.mode", message)
    if given.video.frozen:
        for name in _silent(datasets):
            message = (
                f"is frozen, but `{name}` has no sound: nothing is left to learn. Give it sound (audio: "
                "{auto_split: true}), disable it, or write mode: generated"
            )
            yield Problem(f"{VIDEO}.mode", message)
        for name in _alone(datasets):
            yield Problem(f"{VIDEO}.mode", f"is frozen, but `{name}` has no pictures that could be given")


def _sound(given: ConditioningSettings, datasets: Datasets, video_key: str) -> Iterator[Problem]:
    without_sound = not datasets.audio and not any(d.wants_sound for d in datasets.video)
    if without_sound and given.audio.frozen:
        yield Problem(f"{AUDIO}.mode", "is frozen, but no dataset has sound that could be given")
    if without_sound and given.audio.conditions:
        yield Problem(f"{AUDIO}.conditions", "are given, but no dataset has sound")
    if datasets.audio_only and given.video.conditions:
        yield Problem(video_key, "gives pictures, but only sound is trained")


def _conditioned(given: ConditioningSettings, datasets: Datasets) -> Iterator[Problem]:
    wanted = {
        "reference": (given.video.of_type("reference"), "video", "reference"),
        "reference_audio": (given.sound_reference, "audio", "reference"),
        "mask": (given.video.of_type("mask") or given.audio.of_type("mask"), "video", "mask"),
    }
    for kind, (condition, modality, name) in wanted.items():
        asked = "sound reference" if kind == "reference_audio" else name
        written = f"conditioning: {{{modality}: {{conditions: [{{type: {name}}}]}}}}"
        there = [d.id for d in datasets.conditioning if d.conditioning_type == kind]
        if condition is not None and not there:
            message = (
                f"has a {asked} condition, but no clips have one: add a dataset of dataset_type conditioning "
                f"and conditioning_type {kind}, and name it in the `conditioning_data` of the clips"
            )
            yield Problem("conditioning", message)
        if condition is None and there:
            weighs = " write conditioning_type: loss_mask there if it says what counts in the loss,"
            message = (
                f"has no {asked} condition, but `{there[0]}` is of conditioning_type {kind}; write "
                f"{written} in the recipe,{weighs if kind == 'mask' else ''} or remove `{there[0]}` from the "
                "`conditioning_data` of the clips"
            )
            yield Problem("conditioning", message)
    yield from _factors(datasets)


def _factors(datasets: Datasets) -> Iterator[Problem]:
    """That all clips have references of the same factors, in the same order."""
    factors = {
        dataset.id: tuple(
            (linked.reference_downscale_factor, linked.reference_temporal_scale_factor)
            for linked in datasets.conditioning_of(dataset)
            if linked.conditioning_type == "reference"
        )
        for dataset in datasets.media
    }
    there = {each for each in factors.values() if each}
    if len(there) > 1:
        listed = "; ".join(f"`{name}` has {list(each)}" for name, each in factors.items() if each)
        message = (
            f"differ between the clips' reference datasets: {listed}; a LoRA is trained for one list of "
            "references"
        )
        yield Problem("reference_downscale_factor, reference_temporal_scale_factor", message)


def _weighed(recipe: Recipe, datasets: Datasets) -> Iterator[Problem]:
    """That a loss mask has a loss to weigh, and the only one."""
    masks = [d.id for d in datasets.conditioning if d.conditioning_type == "loss_mask"]
    if not masks:
        return
    remedy = f"remove `{masks[0]}` from the `conditioning_data` of the clips"
    if recipe.given.video.frozen:
        yield Problem(f"{VIDEO}.mode", f"is frozen, so the pictures have no loss to weigh; {remedy}")
    if recipe.crepa.crepa_enabled:
        yield Problem(
            "crepa.crepa_enabled",
            f"aligns whole pictures, also where the loss mask is black; write false, or {remedy}",
        )


def _lengths(given: ConditioningSettings, datasets: Datasets, video_key: str) -> Iterator[Problem]:
    """That something is left of clips whose length is known.

    Clips of resolution_frames have their own lengths; there a condition is left out that takes all.
    """
    for dataset in datasets.video:
        if dataset.video.bucket_strategy != "aspect_ratio":
            continue
        frames = GEOMETRY.legal_frames(dataset.video.num_frames)
        modalities = (
            (video_key, given.video.conditions),
            (f"{AUDIO}.conditions", given.audio.conditions),
        )
        for key, conditions in modalities:
            if key == video_key and dataset.audio.audio_only:
                continue
            message = _too_long(conditions, frames, dataset)
            if message:
                yield Problem(key, message)
        yield from _outside(given.video.keyframes, dataset, frames)
    if given.video.conditions and _only_pictures(datasets, given):
        message = "gives beginnings, ends or frames alone, but all data are pictures of one frame"
        yield Problem(video_key, message)


def _outside(keyframes: Keyframes | None, dataset: VideoDataset, frames: int) -> Iterator[Problem]:
    """That clips of known length have the frames that are given of them."""
    longest = max((bucket.frames for bucket in dataset.fixed_buckets), default=frames)
    outside = [] if keyframes is None else [at for at in keyframes.at if not -longest <= at < longest]
    if outside:
        message = (
            f"keyframes has frame {outside[0]}, and the clips of `{dataset.id}` have {longest} frames; write "
            f"frames from 0 to {longest - 1}, or -1 for the last"
        )
        yield Problem(f"{VIDEO}.conditions", message)


def _too_long(conditions: tuple[OneCondition, ...], frames: int, dataset: VideoDataset) -> str:
    longest = {c.type: _most_frames(c) for c in conditions if isinstance(c, FirstFrame | Prefix | Suffix)}
    beginning = max((longest[name] for name in ("first_frame", "prefix") if name in longest), default=0)
    if not longest or beginning + longest.get("suffix", 0) < frames:
        return ""
    parts = " and ".join(f"{name} of {most}" for name, most in longest.items())
    return (
        f"{parts} frames leave nothing to learn of `{dataset.id}`, whose clips have {frames} frames; give "
        "less, or make the clips longer (video.num_frames)"
    )


def _most_frames(condition: FirstFrame | Prefix | Suffix) -> int:
    """The longest stretch that a condition may draw, rounded to whole latents."""
    if isinstance(condition, FirstFrame):
        return 1
    most = condition.frames[1]
    if isinstance(condition, Prefix):
        return GEOMETRY.legal_frames(most)
    return GEOMETRY.whole_latents(most)


def _only_pictures(datasets: Datasets, given: ConditioningSettings) -> bool:
    in_time = all(isinstance(c, FirstFrame | Prefix | Suffix | Keyframes) for c in given.video.conditions)
    return in_time and all(isinstance(d, ImageDataset) for d in datasets.media)
