"""`ltx2 import-simpletuner`: two files that load, and a line for every key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from flows.cli.app import app
from ltxcore.config.datasets import load_datasets
from ltxcore.config.import_simpletuner import Import
from ltxcore.config.recipe import load_recipe

SEED = Path(__file__).parent / "seed"
CONFIGS = sorted(SEED.glob("*.config.json"))
BACKENDS = sorted(SEED.glob("*.multidatabackend.json"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The seed's layout: both files in config/, the clips in datasets/videos of the project."""
    (tmp_path / "config").mkdir()
    (tmp_path / "datasets/videos").mkdir(parents=True)
    for block, name in (("lowest-vram.config", "config"), ("video.multidatabackend", "multidatabackend")):
        (tmp_path / f"config/{name}.json").write_bytes((SEED / f"{block}.json").read_bytes())
    return tmp_path


def test_the_pipeline_takes_the_json_files_as_they_lie(project: Path) -> None:
    chosen = load_recipe(project / "config/config.json")
    datasets = load_datasets(project / "config/multidatabackend.json", chosen.data)
    assert datasets.directory(datasets.video[0]) == project / "datasets/videos"
    assert datasets.video[0].resolution == 512, "a dataset's own value wins"


def test_the_import_writes_two_files_that_load(project: Path) -> None:
    config, backend = project / "config/config.json", project / "config/multidatabackend.json"
    entries = json.loads(backend.read_text())
    del entries[0]["resolution"]
    backend.write_text(json.dumps(entries))
    done = CliRunner().invoke(
        app, ["import-simpletuner", str(config), str(backend), "--output", str(project / "job")]
    )
    assert done.exit_code == 0, done.output
    assert "refused  " not in done.output
    for line in ("taken    ramtorch", "moot     override_dataset_config", "rounded  my-video-dataset.video"):
        assert line in done.output
    written = load_recipe(project / "job/recipe.yaml")
    assert written.training == load_recipe(config).training
    assert written.validation == load_recipe(config).validation
    datasets = load_datasets(project / "job/datasets.yaml")
    assert datasets.directory(datasets.video[0]) == project / "datasets/videos"
    assert datasets.video[0].resolution == 480, "from config.json, since the dataset gives none"
    assert datasets.video[0].video.shortest == 61
    assert written.memory.ramtorch
    assert "offload_during_startup: moot" in (project / "job/recipe.yaml").read_text()


def test_the_import_refuses_with_status_2_and_writes_nothing(project: Path) -> None:
    config, backend = project / "config/config.json", project / "config/multidatabackend.json"
    command = ["import-simpletuner", str(config), str(backend), "--output", str(project / "job")]
    config.write_text(json.dumps({**json.loads(config.read_text()), "evaluation_type": "clip"}))
    assert CliRunner().invoke(app, [*command, "--strict"]).exit_code == 2
    entries = json.loads(backend.read_text())
    entries[0]["video"]["num_frame"] = entries[0]["video"].pop("num_frames")
    entries[0]["type"] = "aws"
    backend.write_text(json.dumps(entries, indent=1))
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2
    assert "did you mean `num_frames`, " in done.output
    assert "write `local`" in done.output
    assert not (project / "job").exists()


def test_a_directory_that_is_not_there_yet_is_reported_and_not_refused(project: Path) -> None:
    (project / "datasets/videos").rmdir()
    found = Import.read(project / "config/config.json", project / "config/multidatabackend.json")
    files, missing = found.write(project / "job")
    assert "there is no directory" in missing[0]
    assert yaml.safe_load(files[1].read_text())[0]["id"] == "my-video-dataset"
