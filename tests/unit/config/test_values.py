"""Values as people write them, and what a wrong key is answered with."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ltxcore.config.datasets import load_datasets
from ltxcore.config.errors import ConfigError, nearest
from ltxcore.config.recipe import Recipe, load_recipe
from ltxcore.config.training_settings import TrainingSettings


def load(path: Path, **config: Any) -> Recipe:
    file = path / "config.json"
    file.write_text(json.dumps({"max_train_steps": 8, **config}))
    return load_recipe(file)


def test_numbers_and_flags_may_be_texts_and_texts_stay_texts(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        train_batch_size="2",
        num_train_epochs="0",
        learning_rate="1e-4",
        gradient_checkpointing="False",
        musubi_blocks_to_swap="0",
        validation_prompt="true",
        tracker_run_name="7",
    )
    assert (found.training.train_batch_size, found.training.max_train_steps) == (2, 8)
    assert (found.training.learning_rate, found.training.gradient_checkpointing) == (1e-4, False)
    assert found.validation.validation_prompts == {"prompt": "true"}
    assert found.tracking.tracker_run_name == "7"


@pytest.mark.parametrize("size", ["3", {"512x512@49": "3"}])
def test_a_batch_size_of_a_recipe_may_be_a_text(size: Any) -> None:
    taken = TrainingSettings(train_batch_size=size).train_batch_size
    assert taken == (3 if isinstance(size, str) else {"512x512@49": 3})
    with pytest.raises(ValueError, match="write a number above 0"):
        TrainingSettings(train_batch_size="many")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("written", "meant"),
    [("2.0", "dev"), (2.0, "dev"), ("2", "dev"), ("2.3", "2.3-dev"), (2.5, "2.5-dev"), ("dev", "dev")],
)
def test_a_flavour_may_be_a_version(tmp_path: Path, written: Any, meant: str) -> None:
    assert load(tmp_path, model_flavour=written).model.model_flavour == meant


@pytest.mark.parametrize(
    ("written", "meant"), [("bnb-adamw8bit", "adamw8bit"), ("torch-adamw", "adamw"), ("adamw", "adamw")]
)
def test_an_optimizer_may_have_the_other_programs_name(tmp_path: Path, written: str, meant: str) -> None:
    assert load(tmp_path, optimizer=written).training.optimizer == meant


@pytest.mark.parametrize("sizes", ["512x320,768x512", ["512x320", "768x512"], "512x320, 768x512"])
def test_all_of_several_sizes_are_taken(tmp_path: Path, sizes: Any) -> None:
    taken = load(tmp_path, validation_resolution=sizes).validation
    assert (taken.validation_resolution, taken.resolutions) == ("512x320,768x512", ("512x320", "768x512"))


def test_several_sizes_are_made_legal_and_each_change_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        taken = load(tmp_path, validation_resolution="512,520x512,720x1280").validation
    assert taken.resolutions == ("512x512", "704x1280")
    assert "520x512 -> 512x512" in caplog.text
    assert "720x1280 -> 704x1280" in caplog.text


def test_a_prompt_library_is_a_file_from_here_or_beside_or_what_is_here_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    (here / "prompts").mkdir(parents=True)
    (here / "prompts/mine.json").write_text('{"owl": "An owl."}')
    config = tmp_path / "else/where/config"
    config.mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"there is no file prompts/mine.json, neither beside"):
        load(config, validation_prompt_library="prompts/mine.json")
    monkeypatch.chdir(here)
    found = load(config, validation_prompt_library="prompts/mine.json").validation.validation_prompts
    assert found == {"owl": "An owl."}
    (config / "prompts").mkdir()
    (config / "prompts/mine.json").write_text('{"fox": "A fox."}')
    beside = load(config, validation_prompt_library="prompts/mine.json").validation.validation_prompts
    assert beside == {"fox": "A fox."}, "beside the file that names it comes first"
    standard = load(config, validation_prompt_library=True, validation_prompt="Mine.").validation
    assert standard.validation_prompts["prompt"] == "Mine."
    assert len(standard.validation_prompts) > 3


def test_a_wrong_key_is_answered_with_the_three_nearest_names_if_any(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        load(tmp_path, lora_ranks=3)
    assert str(refusal.value).endswith("did you mean `lora_rank`, `local_rank` or `lora_format`?")
    with pytest.raises(ConfigError) as far:
        load(tmp_path, qwxyz=3)
    assert str(far.value).endswith("known is near it"), "nothing is guessed, and no hundred names are listed"
    assert nearest("max_step", ["max_train_steps", "num_epochs"]) == "did you mean `max_train_steps`?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {caption_strategy: filename}", "is a key of a dataset; write it in the dataset file"),
        ("caption_strategy: filename\nlora: {}", "is a key of a dataset; write it in the dataset file"),
        ("training: {lora_rank: 4}", "belongs to lora.lora_rank; write lora: {lora_rank: …}"),
        ("lora_rank: 4\nlora: {}", "belongs to lora.lora_rank; write lora: {lora_rank: …}"),
        ("rank: 8\nlora: {}", "did you mean `lora.lora_rank`?"),
    ],
)
def test_a_key_in_the_wrong_place_is_reported_where_it_belongs(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"recipe\.yaml:1") as refusal:
        load_recipe(file)
    assert message in str(refusal.value)


def test_a_key_in_the_wrong_block_of_a_dataset_is_reported_where_it_belongs(tmp_path: Path) -> None:
    file = tmp_path / "datasets.yaml"
    file.write_text("- {id: clips, dataset_type: video, instance_data_dir: ., num_frames: 17}")
    message = "clips: 0.num_frames: belongs to video.num_frames; write video: {num_frames: …}"
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_datasets(file)
