"""Decides the precision in which models compute, if the recipe leaves it open."""

from __future__ import annotations

from typing import Any, Final, Literal

from ltxcore.config.recipe import Recipe
from ltxcore.config.weight_precisions import NO_CHANGE

Device = Literal["cpu", "cuda"]
OPEN: Final = "auto"
KEYS: Final = ("encode.vae_dtype", "model.text_encoder_dtype", "training.mixed_precision")


def open_precisions(recipe: Recipe) -> list[str]:
    """The keys of the precisions that a recipe leaves open."""
    return [key for key in KEYS if _value(recipe, key) == OPEN]


def resolve_arithmetic(recipe: Recipe, device: Device) -> tuple[Recipe, str]:
    """Decide the open precisions of a recipe for a device.

    bf16 on a GPU. float32 on a CPU: those without bf16 arithmetic of their own take many times as long in
    bf16. The values change the results, so they are part of the keys and requests made of the recipe.

    Returns:
        The recipe, and a sentence; empty where the recipe leaves nothing open.
    """
    on_gpu = device == "cuda"
    # Quantised weights stand in the type that they were made for.
    text = "bf16" if on_gpu or recipe.model.text_encoder_1_precision != NO_CHANGE else "fp32"
    choices = dict(zip(KEYS, ("bf16" if on_gpu else "fp32", text, "bf16" if on_gpu else "no"), strict=True))
    sections: dict[str, dict[str, Any]] = {}
    for key in open_precisions(recipe):
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = choices[key]
    if not sections:
        return recipe, ""
    decided = {name: getattr(recipe, name).model_copy(update=values) for name, values in sections.items()}
    messages = [
        f"{section}.{key} is {v}" for section, values in sections.items() for key, v in values.items()
    ]
    machine = "this machine has a GPU" if on_gpu else "this machine has no GPU"
    return recipe.model_copy(update=decided), f"{_listed(messages)}: the recipe leaves it open, and {machine}"


def _value(recipe: Recipe, key: str) -> object:
    section, _, name = key.partition(".")
    return getattr(getattr(recipe, section), name)


def _listed(parts: list[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
