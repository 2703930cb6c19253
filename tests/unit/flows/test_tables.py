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
def test_every_figure_of_a_plan_is_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, columns: int
) -> None:
    monkeypatch.setattr(plan, "console", Console(width=columns))
    place = ["--workspace", str(tmp_path / "none"), "--clips", "3000"]
    compared = CliRunner().invoke(app, ["plan", *place, "--price-per-hour", "12"])
    whole = CliRunner().invoke(
        app, ["plan", *place, "--card", "4090", "--version", "2.3", "--price-per-hour", "12"]
    )
    assert (compared.exit_code, whole.exit_code) == (0, 0), compared.output + whole.output
    assert "…" not in compared.stdout + whole.stdout
    cards = tables(compared.stdout)[-1]
    stages = tables(whole.stdout)[0]
    assert max(map(len, [*cards, *stages])) <= columns
    figures = r" +\d+\.\d +\d+\.\d +\d+\.\d +~[\d hmins]+ +\d+\.\d\d"
    rows = [row for row in cards if re.search(r"~\d", row)]
    assert len(rows) == len(plan.CARDS)
    assert all(re.search(rf"{figures} *$", row) for row in rows), rows
    for stage in ("encode-latents", "embed-text", "train-lora", "render-validation"):
        (row,) = [row for row in stages if row.startswith(f" {stage}")]
        counts = r"[\d,]+ [a-z]+ +~[\d hmins]+ +\d+\.\d +\d+\.\d"
        assert re.search(rf"^ {stage} +{counts} +[\d.]+ [kMGT]?B +\d+\.\d\d *$", row), row


def tables(text: str) -> list[list[str]]:
    """The tables of an output, each as its rows: what begins after a rule and ends before an empty line."""
    found: list[list[str]] = []
    for block in re.split(r"\n *(?=\n)", text):
        head, rule, rows = block.partition("───")
        if rule:
            found.append([*head.splitlines()[-1:], *rows.splitlines()[1:]])
    return found


def test_a_card_on_which_nothing_fits_breaks_no_figure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "memory: {vram_gib: 3, ram_gib: 4}\nmodel: {pretrained_model_name_or_path: Lightricks/LTX-2}\n"
    )
    monkeypatch.setattr(plan, "console", Console(width=NARROW))
    words = ["--size", "1920x1088", "--frames", "241", "--card", "4090", "--card", "h200"]
    result = CliRunner().invoke(
        app, ["plan", "--recipe", str(recipe), "--workspace", str(tmp_path / "none"), *words]
    )
    assert result.exit_code == 0, result.output
    rows = tables(result.stdout)[0][1:]
    assert [re.sub(r" +", " ", row).strip() for row in rows] == [
        "RTX 4090 does not fit - - - -",
        "H200 141 GB does not fit - - - -",
    ]
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
