"""Which of Gemma's stored weights its language model reads, and under which names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

W = TypeVar("W")
# The tower's place in the file, in every layout that transformers has written.
_TOWER = re.compile(
    r"^(?:(?:model\.)?language_model\.(?:model\.)?|model\.)(?=layers\.|embed_tokens\.|norm\.)"
)
_ELSEWHERE = re.compile(r"vision_tower|multi_modal_projector|lm_head")


def tower_weights(weights: Mapping[str, W]) -> dict[str, W]:
    """The weights of the language model alone, named as `Gemma3TextModel` names them."""
    return {_TOWER.sub("", name): weight for name, weight in weights.items() if not _ELSEWHERE.search(name)}
