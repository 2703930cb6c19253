"""Configuration: what is refused, and what the person reads then."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltxcore.config.datasets import load_datasets
from ltxcore.config.errors import ConfigError, nearest
from ltxcore.config.recipe import Recipe, load_recipe

GOOD = """
- id: clips
  dataset_type: video
  instance_data_dir: clips
  video: {num_frames: 61}
- id: text
  dataset_type: text_embeds
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "clips").mkdir()
    return tmp_path


def refuse(folder: Path, text: str, name: str = "datasets.yaml") -> str:
    (folder / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_datasets(folder / name)
    return str(caught.value)


def test_a_good_file_is_read_relative_to_itself(folder: Path) -> None:
    (folder / "datasets.yaml").write_text(GOOD)
    datasets = load_datasets(folder / "datasets.yaml")
    assert datasets.directory(datasets.video[0]) == folder / "clips"
    assert datasets.video[0].audio.auto_split, "sound is on unless it is opted out of"
    assert datasets.video[0].video.shortest == 61


def test_the_seeds_json_file_is_read_like_yaml(folder: Path) -> None:
    (folder / "multidatabackend.json").write_text(
        '[{"id": "my-video-dataset", "type": "local", "dataset_type": "video", "instance_data_dir": "clips",'
        '"caption_strategy": "textfile", "resolution": 512,'
        '"video": {"num_frames": 61, "min_frames": 61, "frame_rate": 25, "bucket_strategy": "aspect_ratio"},'
        '"audio": {"auto_split": true, "sample_rate": 16000, "channels": 1, "duration_interval": 3.0},'
        '"repeats": 10}, {"id": "text-embeds", "type": "local", "dataset_type": "text_embeds",'
        '"default": true, "cache_dir": "cache/text/ltxvideo2", "disabled": false}]'
    )
    datasets = load_datasets(folder / "multidatabackend.json")
    assert datasets.video[0].repeats == 10
    assert datasets.video[0].video.num_frames == 61


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            GOOD.replace("num_frames", "num_frame"),
            "datasets.yaml:5: clips: 0.video.num_frame: is not a known key",
        ),
        (GOOD.replace("num_frames", "num_frame"), "did you mean `num_frames`, "),
        (GOOD.replace("61", "many"), "datasets.yaml:5: clips: 0.video.num_frames:"),
        (
            GOOD.replace("dir: clips", "dir: nowhere"),
            "datasets.yaml:4: clips: 0.instance_data_dir: there is no dir",
        ),
        (GOOD.replace("dir: clips", "dir: datasets/glimmer"), "datasets/glimmer` makes the sample clips"),
        (GOOD.replace("id: text", "id: clips"), "datasets.yaml:6: clips: 1.id: `clips` is already the id"),
        (GOOD.replace("text_embeds", "text_embed"), "did you mean `text_embeds`?"),
        (GOOD.replace("type: video", "type: video\n  disabled: true"), "nothing to train on"),
        (GOOD.replace("  dataset_type: video\n", ""), "0.dataset_type: is required"),
        (GOOD + "  id: again\n", "datasets.yaml:8: id: is given twice"),
        ("clips: 3\n", "must be a list of datasets"),
        ("- [unclosed\n", "does not parse"),
        ("- just a word\n", "must be a dataset with `id`"),
        ("", "found nothing"),
        (GOOD.replace("{num_frames: 61}", "{num_frames: 61, min_frames: 9, max_frames: 3}"), "min_frames 9"),
    ],
)
def test_a_broken_dataset_file_says_where_and_what_instead(folder: Path, text: str, message: str) -> None:
    assert message in refuse(folder, text)


def test_a_file_needs_no_entry_for_the_store_of_captions(folder: Path) -> None:
    (folder / "datasets.yaml").write_text(GOOD)
    written = load_datasets(folder / "datasets.yaml")
    (folder / "datasets.yaml").write_text(GOOD[: GOOD.index("- id: text")])
    left_out = load_datasets(folder / "datasets.yaml")
    assert left_out.media == written.media


def test_every_fault_of_a_file_is_reported_at_once(folder: Path) -> None:
    message = refuse(folder, GOOD.replace("num_frames: 61", "num_frame: 61").replace("text_embeds", "texts"))
    assert len(message.splitlines()) == 2


def test_a_missing_file_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file"):
        load_datasets(folder / "nowhere.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {learning_rat: 1}", "recipe.yaml:1: training.learning_rat: is not a known key; did you"),
        ("trainin: {}", "did you mean `training` or `tracking`?"),
        ("lora:\n  lora_rank: 0", "recipe.yaml:2: lora.lora_rank: input should be greater than 0; found 0"),
        ("training: {learning_rate: -1}", "training.learning_rate"),
        ("training: {max_train_steps: 5, lr_warmup_steps: 5}", "leaves no step after the warm-up"),
        ("validation: {validation_prompts: {a b: x}}", "letters, digits, - and _ only"),
        ("tracking: {mlflow_tracking_uri: 'http://me:secret@host:5000'}", "MLFLOW_TRACKING_PASSWORD"),
        ("model: {model_family: flux}", "model.model_family"),
    ],
)
def test_a_broken_recipe_says_where_and_what_instead(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(tmp_path / "recipe.yaml")
    assert message in str(caught.value)


def test_seed_zero_is_a_seed(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("training: {seed: 0}")
    assert load_recipe(tmp_path / "recipe.yaml").training.seed == 0


def test_the_shipped_recipes_are_valid() -> None:
    recipes = sorted(Path("deploy/recipes").glob("*.yaml"))
    assert recipes
    for path in recipes:
        assert isinstance(load_recipe(path), Recipe)


def test_nothing_is_guessed_for_a_name_that_is_like_none_of_many() -> None:
    known = [f"clips/{number:04d}.mp4" for number in range(1000)]
    assert nearest("x", known) == "none of the 1000 known is near it"
    assert nearest("0421", known) == "did you mean `clips/0421.mp4`?", "a part of one name alone"
