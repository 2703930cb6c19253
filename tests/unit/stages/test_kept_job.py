"""Recipe and dataset file of a run: read once, kept, and a short form over the recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.environment import logs_directory, prefect_home
from ltxcore.config.datasets import NO_DEFAULTS, load_datasets
from ltxcore.config.errors import ConfigError
from ltxcore.config.overrides import Overrides
from ltxcore.config.recipe import Recipe
from ltxcore.execution.kept_job import RECIPE, keep_job

DATASETS = """
- id: clips
  dataset_type: video
  instance_data_dir: clips
  resolution: 64
- id: text
  dataset_type: text_embeds
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "workspace" / "runs" / "run"


def test_a_run_keeps_the_recipe_that_it_began_with(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("training: {max_train_steps: 7}")
    begun = keep_job(run, str(file)).recipe
    for edit in ("training: {max_train_steps: 9}", "training: {max_train_steps: many}", ""):
        file.write_text(edit)
        assert keep_job(run, str(file)).recipe == begun
    file.unlink()
    assert keep_job(run, str(file)).recipe.training.max_train_steps == 7
    assert keep_job(run.with_name("another"), "").recipe == Recipe()


def test_a_bad_recipe_is_not_kept(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("training:\n  max_train_stepz: 7\n")
    with pytest.raises(ConfigError, match=r"recipe\.yaml:2: .*max_train_steps"):
        keep_job(run, str(file))
    file.write_text("training: {max_train_steps: 7}")
    assert keep_job(run, str(file)).recipe.training.max_train_steps == 7


def test_a_kept_dataset_file_means_the_directories_of_its_origin(run: Path, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    file = tmp_path / "datasets.yaml"
    file.write_text(DATASETS)
    keep_job(run, "", datasets_file=str(file))
    file.write_text("- id: something else")
    kept = keep_job(run, "", datasets_file=str(file)).datasets
    assert kept is not None
    found = load_datasets(kept.file, NO_DEFAULTS, kept.origin)
    assert [str(found.directory(d)) for d in found.video] == [str(tmp_path / "clips")]
    assert kept.file.is_relative_to(run)


def test_recipe_and_datasets_are_kept_both_or_none(run: Path, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    datasets, recipe = tmp_path / "datasets.yaml", tmp_path / "recipe.yaml"
    recipe.write_text("training: {max_train_steps: 7}")
    datasets.write_text(DATASETS.replace("64", "sixty-four"))
    with pytest.raises(ConfigError, match=str(datasets)):
        keep_job(run, str(recipe), datasets_file=str(datasets))
    assert not list(run.iterdir())

    # The retry has the recipe as it was mended, too.
    datasets.write_text(DATASETS)
    recipe.write_text("training: {max_train_steps: 9}")
    assert keep_job(run, str(recipe), datasets_file=str(datasets)).recipe.training.max_train_steps == 9

    # A run that was killed before its recipe was kept has not begun.
    (run / RECIPE).unlink()
    datasets.write_text(DATASETS.replace("64", "128"))
    kept = keep_job(run, str(recipe), datasets_file=str(datasets)).datasets
    assert kept is not None
    assert "128" in kept.file.read_text()


def test_paths_may_begin_with_a_tilde(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "clips").mkdir()
    (tmp_path / "datasets.yaml").write_text(DATASETS)
    (tmp_path / "recipe.yaml").write_text("training: {max_train_steps: 7}")
    kept = keep_job(run, "~/recipe.yaml", datasets_file="~/datasets.yaml")
    assert kept.recipe.training.max_train_steps == 7
    assert kept.datasets is not None
    assert kept.datasets.origin == tmp_path / "datasets.yaml"
    assert logs_directory("~/workspace") == tmp_path / "workspace" / "logs"
    assert prefect_home("~/workspace") == tmp_path / "workspace" / "prefect"
    with pytest.raises(ConfigError, match="write the whole path"):
        keep_job(run.with_name("another"), "~nobody-here/recipe.yaml")


def test_overrides_take_the_place_of_the_recipes_values(run: Path) -> None:
    asked = Overrides(
        max_train_steps=5,
        lora_rank=8,
        learning_rate=1e-3,
        trigger="glimmer",
        validation_prompts={"one": "a disc"},
        vram_gib=24,
        ram_gib=32,
    )
    recipe = keep_job(run, "", asked).recipe
    assert (recipe.training.max_train_steps, recipe.lora.lora_rank) == (5, 8)
    assert (recipe.training.learning_rate, recipe.lora.trigger) == (1e-3, "glimmer")
    assert recipe.validation.validation_prompts == {"one": "a disc"}
    assert (recipe.memory.vram_gib, recipe.memory.ram_gib) == (24, 32)
    assert Overrides().put_over(recipe) is recipe


def test_steps_take_the_place_of_epochs() -> None:
    by_epochs = Recipe.model_validate({"training": {"num_train_epochs": 3, "max_train_steps": 0}})
    assert Overrides(max_train_steps=5).put_over(by_epochs).training.num_train_epochs == 0


def test_a_wrong_override_names_its_key() -> None:
    with pytest.raises(ConfigError, match=r"(?s)the overrides.*validation_prompts"):
        Overrides(validation_prompts={"bad name!": "x"}).put_over(Recipe())


LYCORIS = {"lora": {"lora_type": "lycoris", "lycoris_config": {"algo": "lokr", "linear_dim": 12}}}
SILENT = {"validation": {"validation_disable": True}}


@pytest.mark.parametrize(
    ("recipe", "asked", "message"),
    [
        (LYCORIS, {"lora_rank": 8}, r"lora_rank: is 8, .*linear_dim, which is 12; .*write linear_dim"),
        (SILENT, {"validation_prompts": {"one": "x"}}, r"validation_prompts: .*remove validation_disable"),
    ],
)
def test_an_override_that_would_change_nothing_is_refused(
    recipe: dict[str, Any], asked: dict[str, Any], message: str
) -> None:
    begun = Recipe.model_validate(recipe)
    with pytest.raises(ConfigError, match=message):
        Overrides.model_validate(asked).put_over(begun)
    assert Overrides(max_train_steps=5).put_over(begun).training.max_train_steps == 5
