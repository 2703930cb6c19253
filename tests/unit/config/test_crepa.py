"""CREPA's settings: what is refused, what the seed's keys become, and what its memory is predicted to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from ltxcore.config.crepa_settings import CrepaSettings
from ltxcore.config.errors import ConfigError
from ltxcore.config.recipe import Recipe, load_recipe
from ltxcore.config.simpletuner.training import translate_config
from ltxcore.config.training_settings import TrainingSettings
from ltxcore.memory.planner.alignment import alignment_bytes, projector_values
from ltxcore.memory.planner.cards import CARDS
from ltxcore.pipeline.plan.transformer_plan import released_planner, workload
from ltxcore.training.crepa import Projector, alignment


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crepa_encoder_image_size: 512", r"crepa_encoder_image_size is 512.*such as 504 or 518"),
        ("crepa_encoder_image_size: 5", r"crepa_encoder_image_size is 5.*such as 14 or 14"),
        ("crepa_block_index: 48", r"crepa\.crepa_block_index: .*less than or equal to 47"),
        ("crepa_block_index: -1", r"crepa\.crepa_block_index"),
        ("crepa_lambda: 0", r"crepa\.crepa_lambda: .*greater than 0"),
        ("crepa_adjacent_distance: -1", r"crepa\.crepa_adjacent_distance"),
        ("crepa_adjacent_tau: 0", r"crepa\.crepa_adjacent_tau"),
        ("crepa_encoder: dinov3", r"crepa\.crepa_encoder: .*dinov2_vitg14"),
        ("crepa_enable: true", r"crepa_enable: is not a known key; did you mean `crepa_enabled`"),
        ("{crepa_encoder: tiny, crepa_encoder_path: x/y}", r"crepa_encoder_path says where weights are"),
    ],
)
def test_what_is_refused_names_the_key(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "recipe.yaml").write_text(f"crepa:\n  {text}\n")
    with pytest.raises(ConfigError, match=message):
        load_recipe(tmp_path / "recipe.yaml")


def test_the_defaults_are_the_seeds_and_off() -> None:
    assert Recipe().crepa.model_dump() == {
        "crepa_enabled": False,
        "crepa_block_index": 8,
        "crepa_lambda": 0.5,
        "crepa_adjacent_distance": 1,
        "crepa_adjacent_tau": 1.0,
        "crepa_encoder": "dinov2_vitg14",
        "crepa_encoder_path": None,
        "crepa_encoder_image_size": 518,
        "crepa_encoder_batch_size": 8,
        "crepa_drop_vae_encoder": False,
    }


def test_the_seeds_keys_are_taken_over(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "crepa_enabled": "true",
        "crepa_block_index": 12,
        "crepa_lambda": 0.25,
        "crepa_adjacent_distance": 2,
        "crepa_adjacent_tau": 0.5,
        "crepa_encoder": "dinov2_vits14",
        "crepa_encoder_image_size": 224,
        "crepa_drop_vae_encoder": True,
    }
    translation = translate_config(given, tmp_path / "config.json")
    translation.check(strict=True)
    recipe = Recipe.model_validate(translation.data)
    expected = {**given, "crepa_enabled": True}
    expected.pop("crepa_drop_vae_encoder")
    assert recipe.crepa == CrepaSettings(**expected)


def test_its_memory_is_what_autograd_keeps_and_a_little_more() -> None:
    """Counted on the real functions: what is kept for backward; gradients come to no more than as much."""
    batch, frames, tokens, width, teacher_width = 2, 4, 30, 128, 48
    projector = Projector(width, teacher_width, seed=1)
    hidden = torch.randn(batch, frames, tokens, width, dtype=torch.bfloat16, requires_grad=True)
    teacher = torch.randn(batch, frames, tokens, teacher_width, dtype=torch.bfloat16)
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        _, score = alignment(projector(hidden), teacher, 2, 1.0)
    weights = sum(4 * parameter.numel() for parameter in projector.parameters())
    predicted = alignment_bytes(tokens=frames * tokens, batch=batch, width=width, teacher_width=teacher_width)
    activations = sum(kept.values()) - weights
    assert activations < predicted < 2.2 * activations
    values = sum(parameter.numel() for parameter in projector.parameters())
    assert projector_values(width, teacher_width) == values
    assert score.requires_grad


def test_the_planner_counts_it_at_full_size() -> None:
    planner = released_planner("2.0", CARDS["h100"], 2)
    size: dict[str, Any] = {
        "width": 768,
        "height": 512,
        "frames": 121,
        "fps": 25.0,
        "audio": True,
        "text_tokens": 1024,
        "batch": 1,
    }
    bf16 = TrainingSettings(mixed_precision="bf16")
    aligned = Recipe(crepa=CrepaSettings(crepa_enabled=True), training=bf16)
    with_it, without = (
        planner.plan("resident", workload(recipe, **size), "no_change", resident=48, checkpointed=48)
        for recipe in (aligned, Recipe(training=bf16))
    )
    # Value, gradient and two states of Adam in float32, and the cast that backward needs.
    assert with_it.adapter_bytes - without.adapter_bytes == (16 + 2) * (2 * 4096 + 4096 * 1536 + 1536)
    expected = alignment_bytes(tokens=16 * 16 * 24, batch=1, width=4096, teacher_width=1536)
    assert with_it.activations_bytes - without.activations_bytes == expected
    assert with_it.device_bytes - without.device_bytes > expected
