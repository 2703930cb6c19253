"""Which of Gemma's stored weights its language model reads, under which names, and what they tell of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from ltxcore.models.files.weights import Weight

W = TypeVar("W")
GEMMA_3: Final[Mapping[str, Any]] = {
    "model_type": "gemma3_text",
    "sliding_window": 1024,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
}
"""What Gemma 3's configuration says, from 4B on, and the shapes of its weights do not."""
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


def is_gemma_3(tower: Mapping[str, Weight]) -> bool:
    """Whether weights are of a Gemma 3: Gemma 2 has no norms of queries, and Gemma 4 scales its layers."""
    return "layers.0.self_attn.q_norm.weight" in tower and "layers.0.layer_scalar" not in tower


def gemma_3_config(tower: Mapping[str, Weight]) -> dict[str, Any]:
    """The configuration of a Gemma 3 from the shapes of its weights, for a file that has none.

    Queries are scaled by the size of a head, which is right for 4B and 12B.
    """
    shapes = {name: weight.shape for name, weight in tower.items()}
    (head,) = shapes["layers.0.self_attn.q_norm.weight"]
    vocabulary, width = shapes["embed_tokens.weight"]
    layers = {int(name.split(".")[1]) for name in shapes if name.startswith("layers.")}
    return {
        **GEMMA_3,
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes["layers.0.mlp.gate_proj.weight"][0],
        "num_hidden_layers": max(layers) + 1,
        "num_attention_heads": shapes["layers.0.self_attn.q_proj.weight"][0] // head,
        "num_key_value_heads": shapes["layers.0.self_attn.k_proj.weight"][0] // head,
        "head_dim": head,
        "query_pre_attn_scalar": head,
    }
