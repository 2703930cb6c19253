"""Which texts a pipeline needs features of: captions, the empty caption, and what validation renders."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ltxcore.config.recipe import Recipe
from ltxcore.pipeline.data.class_captions import captions_of
from ltxcore.store.snapshot import Sample, Snapshot

EMPTY = ""
UNCONDITIONAL = "unconditional"
DEFAULT_PROMPTS = 2


def validation_prompts(recipe: Recipe, snapshot: Snapshot) -> dict[str, str]:
    """Short name -> prompt: the recipe's, or the captions of the first clips."""
    if recipe.validation.validation_disable:
        return {}
    if recipe.validation.validation_using_datasets:
        return {name: clip.captions[0] for name, clip in dataset_clips(recipe, snapshot).items()}
    empty = {} if recipe.validation.validation_disable_unconditional else {UNCONDITIONAL: EMPTY}
    if recipe.validation.validation_prompts:
        return {**recipe.validation.validation_prompts, **empty}
    return {**_first_captions(snapshot), **empty}


def most_prompts(recipe: Recipe) -> int:
    """As many prompts as there can be, where no clip is known yet."""
    settings = recipe.validation
    if settings.validation_disable:
        return 0
    if settings.validation_using_datasets:
        return DEFAULT_PROMPTS
    given = {**settings.validation_prompts}
    empty = {} if settings.validation_disable_unconditional else {UNCONDITIONAL: EMPTY}
    return len({**given, **empty}) if given else DEFAULT_PROMPTS + len(empty)


def _first_captions(snapshot: Snapshot) -> dict[str, str]:
    prompts: dict[str, str] = {}
    for sample in sorted(snapshot.samples, key=lambda s: s.id):
        if len(prompts) == DEFAULT_PROMPTS:
            break
        caption = sample.captions[0]
        if caption not in prompts.values():
            prompts[_slug(sample.path, prompts)] = caption
    return prompts


def dataset_clips(recipe: Recipe, snapshot: Snapshot) -> dict[str, Sample]:
    """Short name -> clip, of the clips that renderings are conditioned on: the first ones of one size.

    Empty without `validation_using_datasets`.
    """
    settings = recipe.validation
    if settings.validation_disable or not settings.validation_using_datasets:
        return {}
    of_set = sorted(
        (s for s in snapshot.samples if settings.eval_dataset_id in (None, s.dataset) and s.kind != "audio"),
        key=lambda s: s.id,
    )
    clips: dict[str, Sample] = {}
    for sample in of_set:
        if sample.bucket == of_set[0].bucket and len(clips) < DEFAULT_PROMPTS:
            clips[_slug(sample.path, clips)] = sample
    return clips


def _slug(path: str, taken: Mapping[str, object]) -> str:
    stem = re.sub(r"[^A-Za-z0-9]+", "-", path.rsplit(".", 1)[0]).strip("-").lower() or "prompt"
    return stem if stem not in taken else f"{stem}-{len(taken) + 1}"


def all_texts(recipe: Recipe, snapshot: Snapshot) -> list[str]:
    """Every text once, in a fixed order. The empty caption is always there, for caption dropout."""
    prompts = validation_prompts(recipe, snapshot)
    texts = {EMPTY, *captions_of(recipe, snapshot.samples), *prompts.values()}
    if prompts:
        texts.add(recipe.validation.validation_negative_prompt)
    return sorted(texts)
