"""The README's commands that need no server, run as they stand there on files of a test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flows.cli import app
from tests.e2e.readme import ROOT, readme
from tests.stages.conftest import Bench


def invoke(words: list[str], *more: str) -> Result:
    done = CliRunner().invoke(app, [*words[1:], *more])
    assert done.exit_code == 0, done.output
    return done


def test_plan_names_this_machine_and_the_usual_cards() -> None:
    told = invoke(readme("ltx2 plan")).output
    assert "4090" in told
    assert "H200" in told


def test_a_config_and_its_datasets_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = ROOT / "tests/unit/seed"
    shutil.copy(seed / "lowest-vram.config.json", tmp_path / "config.json")
    shutil.copy(seed / "video.multidatabackend.json", tmp_path / "multidatabackend.json")
    (tmp_path / "datasets/videos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    told = invoke(readme("ltx2 import-simpletuner config.json multidatabackend.json")).output
    assert "learning_rate" in told
    assert (tmp_path / "datasets.yaml").exists()
    assert (tmp_path / "recipe.yaml").exists()


def test_explain_says_of_every_stage_whether_it_would_run(bench: Bench, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(bench.recipe.model_dump_json())
    told = invoke(
        readme("ltx2 explain"),
        *("--workspace", str(bench.root / "workspace")),
        *("--datasets", str(bench.root / "datasets.yaml")),
        *("--recipe", str(recipe)),
    ).output
    assert "probe-media" in told
    assert "render-validation" in told
