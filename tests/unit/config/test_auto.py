"""`auto` in the recipe: the forms of a batch size, and the budgets that the planner's choice needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ltxcore.config.errors import ConfigError
from ltxcore.config.recipe import Recipe, load_recipe

BUDGETS = {"vram_gib": 22, "ram_gib": 48}


def load(tmp_path: Path, **recipe: Any) -> Recipe:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    return load_recipe(file)


@pytest.mark.parametrize("size", [3, {"512x512@49": 4, "768x512@17": 1}])
def test_a_batch_size_is_a_number_or_one_for_each_bucket(tmp_path: Path, size: Any) -> None:
    assert load(tmp_path, training={"train_batch_size": size}).training.train_batch_size == size


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "four", {}, {"512x512": 2}, {"512x512@49": 0}])
def test_anything_else_is_refused_with_the_forms_there_are(tmp_path: Path, size: Any) -> None:
    with pytest.raises(ConfigError, match=r"train_batch_size: found .* write a number above 0") as caught:
        load(tmp_path, training={"train_batch_size": size})
    assert len(caught.value.problems) == 1


def test_auto_is_refused_without_the_budgets_that_decide(tmp_path: Path) -> None:
    autos = {"training": {"train_batch_size": "auto"}, "model": {"base_model_precision": "auto"}}
    message = (
        r"model\.base_model_precision and training\.train_batch_size: auto needs memory\.vram_gib and "
        r"memory\.ram_gib"
    )
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, **autos)
    with pytest.raises(ConfigError, match=r"needs memory\.ram_gib: what it chooses is part of what"):
        load(tmp_path, **autos, memory={"vram_gib": 22})
    assert load(tmp_path, **autos, memory=BUDGETS).training.train_batch_size == "auto"


def test_ramtorch_of_the_other_models_is_one_way_or_refused(tmp_path: Path) -> None:
    assert load(tmp_path, memory={"ramtorch_text_encoder": True}).memory.ramtorch_text_encoder
    with pytest.raises(ConfigError, match=r"ramtorch_vae is not offered: .* write encode\.vae_enable"):
        load(tmp_path, memory={"ramtorch_vae": True})
    for key, value in (("text_encoder_loading", "resident"), ("text_encoder_1_precision", "int8-quanto")):
        with pytest.raises(ConfigError, match=rf"layer by layer, but model\.{key} is {value}; keep one"):
            load(tmp_path, memory={"ramtorch_text_encoder": True}, model={key: value})
    with pytest.raises(ConfigError, match="needs Gemma whole"):
        load(
            tmp_path,
            model={"text_encoder_loading": "group_offload", "text_encoder_1_precision": "int8-quanto"},
        )
