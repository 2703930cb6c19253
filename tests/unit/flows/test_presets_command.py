"""`ltx2 presets` and what docs/recipes.md says of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.child_process import ROOT
from flows.cli.app import app
from ltxcore.config.recipe import load_recipe
from ltxcore.config.recipe_document import presets

PAGE = (ROOT / "docs/recipes.md").read_text()


def commands() -> list[list[str]]:
    """The commands of the page, without `ltx2`."""
    return [line.split()[1:] for line in re.findall(r"^ltx2 .*$", PAGE, re.MULTILINE)]


def test_every_preset_is_listed_with_its_subject_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = CliRunner().invoke(app, ["presets"])
    assert done.exit_code == 0, done.output
    for name in presets():
        assert re.search(rf"^ {name} +\w+", done.output, re.MULTILINE), name
    assert max(len(line) for line in done.output.splitlines()) <= 80


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_the_commands_of_the_page(words: list[str]) -> None:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output


def test_a_printed_preset_is_a_recipe(tmp_path: Path) -> None:
    printed = CliRunner().invoke(app, ["presets", "character"]).output
    (tmp_path / "mine.yaml").write_text(printed)
    assert load_recipe(tmp_path / "mine.yaml") == load_recipe(presets()["character"])


def test_an_unknown_name_is_told_its_neighbour() -> None:
    done = CliRunner().invoke(app, ["presets", "charakter"])
    assert done.exit_code == 2
    assert "character" in done.output


def test_the_recipe_of_the_page(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "recipe.yaml").write_text(text)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert (recipe.lora.lora_rank, recipe.memory.vram_gib) == (32, 23)
    assert set(recipe.validation.validation_prompts) == {"street"}
