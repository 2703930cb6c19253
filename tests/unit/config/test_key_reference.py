"""The reference of all keys: complete, right, and what docs/keys.md says."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from ltxcore.config.dataset_kinds import KINDS
from ltxcore.config.key_reference import Key, dataset_keys, recipe_keys
from ltxcore.config.recipe import Recipe

DOCS = Path(__file__).parents[3] / "docs"


def of_recipe(path: str) -> Key:
    return next(key for key in recipe_keys() if key.path == path)


@pytest.mark.parametrize("key", [*recipe_keys(), *dataset_keys()], ids=lambda key: key.path)
def test_every_key_has_a_meaning(key: Key) -> None:
    assert key.meaning
    assert key.kind


def test_every_section_and_every_field_is_there() -> None:
    documented = {key.path for key in recipe_keys()}
    for name, section in Recipe.model_fields.items():
        # `threads` is a key by itself.
        for field in getattr(section.annotation, "model_fields", [""]):
            path = f"{name}.{field}".removesuffix(".")
            assert any(key == path or key.startswith((f"{path}.", f"{path}[")) for key in documented), path
    for kind, model in KINDS.items():
        mine = {key.path for key, kinds in dataset_keys().items() if kind in kinds}
        assert {path.partition(".")[0] for path in mine} == set(model.model_fields)


def test_types_defaults_and_limits_are_those_of_the_models() -> None:
    assert of_recipe("training.train_batch_size").kind == "integer or `auto` or NAME: integer"
    assert of_recipe("training.adam_beta1") == Key(
        "training.adam_beta1", "number ≥ 0, < 1", "0.9", "Decay of the mean gradient."
    )
    assert of_recipe("training.seed").kind == "integer ≥ -1"
    assert of_recipe("tread.routes[].start_layer_idx").default == ""
    assert of_recipe("conditioning.video.conditions[spatial_crop].area").kind == "[number, number]"
    assert "conditioning.video.conditions[prefix].type" not in {key.path for key in recipe_keys()}
    kinds = {key.path: kinds for key, kinds in dataset_keys().items()}
    assert kinds["audio.channels"] == ("video", "audio")
    assert kinds["id"] == tuple(KINDS)


def test_the_page_is_what_the_command_writes() -> None:
    result = CliRunner().invoke(app, ["keys", "--markdown"])
    assert result.exit_code == 0
    assert (DOCS / "keys.md").read_text(encoding="utf-8") == result.stdout, (
        "write it anew: `ltx2 keys --markdown > docs/keys.md`"
    )


def test_a_word_finds_its_keys_and_a_wrong_one_the_nearest() -> None:
    result = CliRunner().invoke(app, ["keys", "lr_"], env={"COLUMNS": "200"})
    assert "training.lr_scheduler" in result.stdout
    assert "lora_rank" not in result.stdout
    assert "Dataset file" not in result.stdout
    wrong = CliRunner().invoke(app, ["keys", "lora_rnk"])
    assert wrong.exit_code == 2
    assert "did you mean `lora_rank`, " in wrong.stderr
