"""Captions of the class for captions with the trigger: what preservation holds to the base."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ltxcore.config.recipe import Recipe
from ltxcore.store.snapshot import Sample


def class_captions(recipe: Recipe, sample: Sample) -> tuple[str, ...]:
    """For each caption of a sample its caption of the class, in their order; none without preservation.

    The trigger, the recipe's or the dataset's, is replaced, whatever its case. A caption without it becomes
    the class itself. With its own words, the base's prediction as its target would keep the adapter from
    learning it.
    """
    class_prompt = recipe.preservation.class_prompt
    if class_prompt is None or sample.regularisation:
        return ()
    trigger = recipe.lora.trigger or sample.trigger
    return tuple(_of_class(caption, trigger, class_prompt) for caption in sample.captions)


def captions_of(recipe: Recipe, samples: Iterable[Sample]) -> set[str]:
    """Every caption that a training of these samples may ask for, besides the empty one."""
    return {caption for sample in samples for caption in (*sample.captions, *class_captions(recipe, sample))}


def _of_class(caption: str, trigger: str, class_prompt: str) -> str:
    found = re.compile(re.escape(trigger), re.IGNORECASE)
    if not trigger or found.search(caption) is None:
        return class_prompt
    return found.sub(lambda _: class_prompt, caption)
