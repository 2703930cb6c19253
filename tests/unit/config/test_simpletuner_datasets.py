"""SimpleTuner's dataset files as its users have them: with its other keys, tables and lists of filters."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ltxcore.config.datasets import load_datasets
from ltxcore.config.errors import ConfigError
from ltxcore.config.import_simpletuner import Import
from ltxcore.config.simpletuner.datasets import translate_datasets

SEED = Path(__file__).parent / "seed"

COMPLETE = [
    {
        "id": "clips", "type": "local", "dataset_type": "video", "crop": False, "resolution": 480,
        "minimum_image_size": 480, "maximum_image_size": 480, "target_downsample_size": 480,
        "resolution_type": "pixel_area", "cache_dir_vae": "cache/vae", "metadata_backend": "discovery",
        "instance_data_dir": "datasets/videos", "disabled": False, "caption_strategy": "parquet",
        "parquet": {"path": "tables/captions.parquet", "filename_column": "f", "caption_column": "c"},
        "caption_filter_list": "tables/filters.txt", "text_embeds": "text", "hash_filenames": True,
        "video": {"num_frames": 121, "is_i2v": False}, "start_epoch": 1, "is_regularization_data": True,
    },
    {
        "id": "only", "type": "local", "dataset_type": "video", "instance_data_dir": "datasets/videos",
        "only_instance_prompt": True, "instance_prompt": "a fox", "caption_strategy": "textfile",
        "max_num_samples": 10, "audio": {"bucket_strategy": "duration"},
    },
    {"id": "vae", "type": "local", "dataset_type": "image_embeds", "cache_dir": "cache/vae"},
    {
        "id": "text", "type": "aws", "aws_bucket_name": "b", "dataset_type": "text_embeds", "default": True,
        "cache_dir": "cache/text", "write_batch_size": 128,
    },
]  # fmt: skip


@pytest.fixture
def complete(tmp_path: Path) -> Path:
    """The seed's layout, with a dataset file that uses what users use besides the seed's keys."""
    project = tmp_path
    for name in ("config", "datasets/videos", "tables"):
        (project / name).mkdir(parents=True)
    (project / "config/config.json").write_bytes((SEED / "lowest-vram.config.json").read_bytes())
    pq.write_table(pa.table({"f": ["a"], "c": ["a caption"]}), project / "tables/captions.parquet")
    (project / "tables/filters.txt").write_text("fox\n")
    file = project / "config/multidatabackend.json"
    file.write_text(json.dumps(COMPLETE, indent=1))
    return file


def test_keys_that_the_import_knows_are_taken_from_the_json_file_itself(
    complete: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    found = load_datasets(complete)
    clips, only = found.video
    assert clips.is_regularisation_data
    assert clips.caption_filter_list == ("fox",)
    assert clips.parquet is not None
    assert Path(clips.parquet.path) == complete.parents[1] / "tables/captions.parquet"
    assert only.caption_strategy == "instanceprompt"
    assert "only.max_num_samples: not yet: all its files are used" in caplog.text
    for key in ("clips.metadata_backend", "clips.hash_filenames", "vae.dataset_type", "text.type"):
        assert key in caplog.text


def test_the_import_writes_the_places_of_tables_and_filters_as_seen_from_there(complete: Path) -> None:
    root = complete.parents[1]
    found = Import.read(root / "config/config.json", complete)
    _, missing = found.write(root / "job/deep")
    written = load_datasets(root / "job/deep/datasets.yaml")
    assert missing == []
    assert written.video[0].caption_filter_list == ("fox",)
    assert written.video[0].parquet == load_datasets(complete).video[0].parquet


def test_a_table_of_captions_that_is_not_there_yet_is_reported_and_not_refused(complete: Path) -> None:
    (complete.parents[1] / "tables/captions.parquet").unlink()
    found = Import.read(complete.parent / "config.json", complete)
    _, missing = found.write(complete.parents[1] / "job")
    assert missing == ["clips: there is no table of captions tables/captions.parquet yet"]


def test_an_unknown_key_is_reported_with_those_of_its_block(complete: Path) -> None:
    entries = json.loads(complete.read_text())
    entries[0]["audio"] = {"zzz": 1}
    complete.write_text(json.dumps(entries))
    with pytest.raises(ConfigError) as caught:
        load_datasets(complete)
    message = str(caught.value)
    assert "clips.audio.zzz: is not a known key; known here: allow_zero_audio, audio_only" in message
    assert message.endswith("(in `audio`)")
    assert "video.num_frames" not in message
    assert "source_from_video" not in message


def test_a_table_of_captions_comes_as_it_is_used_there(tmp_path: Path) -> None:
    entry = {
        "id": "photos", "type": "local", "dataset_type": "image", "instance_data_dir": "p",
        "caption_strategy": "parquet", "metadata_backend": "parquet", "resolution": 1.0,
        "resolution_type": "area", "minimum_image_size": 0.75, "maximum_image_size": 2.0,
        "target_downsample_size": 1.5, "prepend_instance_prompt": False, "instance_prompt": None,
        "only_instance_prompt": False, "disable": False, "cache_dir_vae": "cache", "probability": 1.0,
        "skip_file_discovery": "", "preserve_data_backend_cache": False, "vae_cache_clear_each_epoch": True,
        "repeats": 1, "crop": True, "crop_aspect": "closest", "crop_aspect_buckets": [1.0, 0.75],
        "parquet": {
            "path": "table.parquet", "filename_column": "id", "caption_column": "text",
            "fallback_caption_column": "tags", "width_column": "width", "height_column": "height",
            "identifier_includes_extension": False,
        },
    }  # fmt: skip
    found = translate_datasets([entry], tmp_path / "m.json")
    found.check()
    verdicts = {line.key.removeprefix("photos."): line.verdict for line in found.lines}
    assert verdicts["parquet.identifier_includes_extension"] == "taken"
    assert verdicts["disable"] == "renamed"
    for key in ("parquet.width_column", "parquet.height_column", "metadata_backend"):
        assert verdicts[key] == "moot"
    assert found.data[0]["parquet"]["identifier_includes_extension"] is False
    assert found.data[0]["disabled"] is False
    assert found.data[0]["minimum_image_size"] == 0.75
    alone = translate_datasets([{**entry, "only_instance_prompt": True}], tmp_path / "m.json")
    assert alone.data[0]["caption_strategy"] == "instanceprompt"


def test_a_conditioning_set_comes_through() -> None:
    sets = [
        {"id": "clips", "dataset_type": "video", "instance_data_dir": "a", "conditioning_data": "refs"},
        {
            "id": "refs",
            "dataset_type": "conditioning",
            "conditioning_type": "reference_strict",
            "instance_data_dir": "b",
        },
    ]
    found = translate_datasets(sets, Path("sets.json"))
    found.check()
    assert found.data[1]["conditioning_type"] == "reference"
    # Several of them, as SimpleTuner's conditioning_multidataset_sampling: combined.
    several = [{**sets[0], "conditioning_data": ["refs", "depth"]}, sets[1], {**sets[1], "id": "depth"}]
    found = translate_datasets(several, Path("sets.json"))
    found.check()
    assert found.data[0]["conditioning_data"] == ["refs", "depth"]
    assert [entry["conditioning_type"] for entry in found.data[1:]] == ["reference", "reference"]
    sets[1]["conditioning_type"] = "controlnet"
    with pytest.raises(ConfigError, match="conditioning_type"):
        translate_datasets(sets, Path("sets.json")).check()
