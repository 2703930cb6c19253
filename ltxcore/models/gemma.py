"""Which of Gemma's stored weights its language model reads, and under which names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

W = TypeVar("W")
TEXT_TOWER_NAMES = {r"^(model\.)?language_model\.(model\.)?": "", r"^model\.(?=layers|embed|norm)": ""}
"""The language model's place in a file of Gemma 3, in every layout that transformers has written."""
_ELSEWHERE = re.compile(r"vision_tower|multi_modal_projector|lm_head")


def tower_name(stored: str) -> str:
    """The name that `Gemma3TextModel` gives a stored weight."""
    for pattern, replacement in TEXT_TOWER_NAMES.items():
        stored = re.sub(pattern, replacement, stored)
    return stored


def tower_weights(weights: Mapping[str, W]) -> dict[str, W]:
    """The weights of the language model alone, under its own names."""
    return {tower_name(name): weight for name, weight in weights.items() if not _ELSEWHERE.search(name)}
