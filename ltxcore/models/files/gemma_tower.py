"""Which of Gemma's stored weights its language model reads, and under which names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

W = TypeVar("W")
TEXT_TOWER_NAMES = {r"^(model\.)?language_model\.(model\.)?": "", r"^model\.(?=layers|embed|norm)": ""}
"""The language model's place in a file of Gemma, in every layout that transformers has written."""
_OF_THE_TOWER = re.compile(r"(layers|embed_tokens|norm)\.")


def tower_name(stored: str) -> str:
    """The name that the language model gives a stored weight."""
    for pattern, replacement in TEXT_TOWER_NAMES.items():
        stored = re.sub(pattern, replacement, stored)
    return stored


def tower_weights(weights: Mapping[str, W]) -> dict[str, W]:
    """The weights of the language model alone, under its own names."""
    named = ((tower_name(name), weight) for name, weight in weights.items())
    return {name: weight for name, weight in named if _OF_THE_TOWER.match(name)}
