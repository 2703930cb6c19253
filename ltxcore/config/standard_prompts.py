"""Prompts that test various abilities of a model, for `validation_prompt_library: true`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

STANDARD_PROMPTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "harbour": "A slow pan across a fishing harbour at dawn. Gulls cry, ropes creak against the pier.",
        "portrait": "A close-up of an old carpenter who looks up, smiles and says: good morning, come in.",
        "street": "A cyclist rides through a wet street at night; neon signs shine, rain patters.",
        "kitchen": "Hands knead dough on a floury table, then turn it over. The camera is still.",
        "forest": "The camera moves forward between tall pines while fog drifts and a woodpecker knocks.",
        "drawing": "A hand-drawn fox in flat colours runs to the left over a white page and jumps.",
    }
)
