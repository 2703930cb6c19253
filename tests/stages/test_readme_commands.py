"""The README's commands that need no server, run as they stand there on files of a test."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flows.cli.app import app
from tests.e2e.readme import ROOT, commands, readme
from tests.stages.conftest import Bench
from tests.unit.models.lora_files import draw
from tests.unit.models.lora_files import write as write_lora


def invoke(words: list[str], *more: str) -> Result:
    done = CliRunner().invoke(app, [*words[1:], *more])
    assert done.exit_code == 0, done.output
    return done


def test_plan_names_this_machine_and_the_usual_cards() -> None:
    text = invoke(readme("ltx2 plan")).output
    assert "4090" in text
    assert "H200" in text


def test_a_config_and_its_datasets_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = ROOT / "tests/unit/config/seed"
    shutil.copy(seed / "lowest-vram.config.json", tmp_path / "config.json")
    shutil.copy(seed / "video.multidatabackend.json", tmp_path / "multidatabackend.json")
    (tmp_path / "datasets/videos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    text = invoke(readme("ltx2 import-simpletuner config.json multidatabackend.json")).output
    assert "learning_rate" in text
    assert (tmp_path / "datasets.yaml").exists()
    assert (tmp_path / "recipe.yaml").exists()


def test_explain_says_of_every_stage_whether_it_would_run(bench: Bench, tmp_path: Path) -> None:
    bench.look()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(bench.recipe.model_dump_json())
    text = invoke(
        readme("ltx2 explain"),
        *("--workspace", str(bench.root / "workspace")),
        *("--datasets", str(bench.root / "datasets.yaml")),
        *("--recipe", str(recipe)),
    ).output
    assert "probe-media" in text
    assert "render-validation" in text


def test_the_commands_on_lora_files_do_what_their_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = {"transformer_blocks.0.attn1.to_q": (64, 64), "audio_caption_projection.linear_1": (32, 48)}
    write_lora(tmp_path / "cat.safetensors", draw(shapes, shapes, rank=16), "diffusers", alpha=8.0)
    write_lora(tmp_path / "style.safetensors", draw(shapes, shapes, rank=16, seed=1), "comfyui", alpha=16.0)
    monkeypatch.chdir(tmp_path)
    outputs = [invoke(shlex.split(command)).output for command in commands("docs/lora-files.md")]
    assert "B·A is multiplied by 0.5" in outputs[0]
    assert "relative error" in outputs[-1]
    made = {file.name for file in tmp_path.glob("*.safetensors")} - {"cat.safetensors", "style.safetensors"}
    assert made == {
        "cat_comfyui.safetensors",
        "both.safetensors",
        "small.safetensors",
        "both_rank16.safetensors",
    }
