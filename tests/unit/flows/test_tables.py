"""What the command line prints is whole in a narrow terminal and in a pipe."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from flows.cli import plan
from flows.cli.app import app
from flows.tables import NARROW


@pytest.mark.parametrize("columns", [NARROW, 140])
def test_every_figure_of_a_plan_is_whole(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setattr(plan, "console", Console(width=columns))
    result = CliRunner().invoke(app, ["plan"])
    assert result.exit_code == 0, result.output
    assert "…" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= columns
    rows = re.findall(r"^ +(?:no_change|int8-quanto) .*$", result.stdout, re.MULTILINE)
    assert len(rows) == 2 * len(plan.CARDS)
    for row in rows:
        assert re.fullmatch(r" +\S+ +\w+ +\d+/48 +\d+/48 +\d+\.\d +\d+\.\d +\d+\.\d +\d+", row.rstrip()), row
    for stage in ("encode-latents", "embed-text", "render-validation"):
        assert re.search(rf"^ {stage} .* \d+\.\d +\d+\.\d +\d+\.\d", result.stdout, re.MULTILINE)


def test_a_strategy_that_does_not_fit_breaks_no_figure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("memory: {vram_gib: 3, ram_gib: 4}\n")
    monkeypatch.setattr(plan, "console", Console(width=NARROW))
    size = ["--size", "1920x1088", "--frames", "241"]
    result = CliRunner().invoke(app, ["plan", "--recipe", str(recipe), *size])
    assert result.exit_code == 0, result.output
    assert re.search(r"resident +48/48 .* - *\n +does not fit *\n", result.stdout), result.stdout
    assert "…" not in result.stdout


def test_keys_are_readable_in_a_narrow_terminal() -> None:
    result = CliRunner().invoke(app, ["keys", "video."], env={"COLUMNS": str(NARROW)})
    assert result.exit_code == 0
    assert (
        "\nconditioning.video.conditions[prefix].frames\n    [integer, integer]; must be given\n"
        in result.stdout
    )
    wordless = [line for line in result.stdout.splitlines() if line.startswith("    ") and len(line) < 8]
    assert not wordless, "no meaning is squeezed into a column of syllables"


def test_no_key_is_guessed_for_a_word_like_none() -> None:
    result = CliRunner().invoke(app, ["keys", "zzz"])
    assert result.exit_code == 2
    assert "optimizer" not in result.stderr
    assert "none of the" in result.stderr
