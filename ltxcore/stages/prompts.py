"""Which texts a pipeline needs features of: captions, the empty caption, and what validation renders."""

from __future__ import annotations

import re

from ltxcore.config.recipe import Recipe
from ltxcore.store.snapshot import Snapshot

EMPTY = ""
UNCONDITIONAL = "unconditional"
DEFAULT_PROMPTS = 2


def validation_prompts(recipe: Recipe, snapshot: Snapshot) -> dict[str, str]:
    """Short name -> prompt: the recipe's, or the captions of the first clips."""
    if recipe.validation.validation_disable:
        return {}
    empty = {} if recipe.validation.validation_disable_unconditional else {UNCONDITIONAL: EMPTY}
    if recipe.validation.validation_prompts:
        return {**recipe.validation.validation_prompts, **empty}
    return {**_first_captions(snapshot), **empty}


def _first_captions(snapshot: Snapshot) -> dict[str, str]:
    prompts: dict[str, str] = {}
    for sample in sorted(snapshot.samples, key=lambda s: s.id):
        if len(prompts) == DEFAULT_PROMPTS:
            break
        caption = sample.captions[0]
        if caption not in prompts.values():
            prompts[_slug(sample.path, prompts)] = caption
    return prompts


def _slug(path: str, taken: dict[str, str]) -> str:
    stem = re.sub(r"[^A-Za-z0-9]+", "-", path.rsplit(".", 1)[0]).strip("-").lower() or "prompt"
    return stem if stem not in taken else f"{stem}-{len(taken) + 1}"


def all_texts(recipe: Recipe, snapshot: Snapshot) -> list[str]:
    """Every text once, in a fixed order. The empty caption is always there, for caption dropout."""
    prompts = validation_prompts(recipe, snapshot)
    texts = {EMPTY, *snapshot.captions(), *prompts.values()}
    if prompts:
        texts.add(recipe.validation.validation_negative_prompt)
    return sorted(texts)
