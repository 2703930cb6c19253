"""Commands that look after a workspace, where there is none, and without a dataset file."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.app import app


@pytest.mark.parametrize("command", ["verify", "gc", "gc --apply", "compact", "retry --quarantined"])
@pytest.mark.parametrize("there", [True, False], ids=["another folder", "nothing"])
def test_it_is_reported_and_nothing_is_made(tmp_path: Path, command: str, there: bool) -> None:
    place = tmp_path / "wrong"
    if there:
        (place / "clips").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    done = CliRunner().invoke(app, [*command.split(), "--workspace", str(place)])
    assert done.exit_code == 2
    assert f"there is no workspace at {place}" in done.output
    assert "checked" not in done.output
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", ["validate", "stage probe-media", "run"])
def test_a_missing_dataset_file_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 2
    assert "datasets.yaml: no such file; name the dataset file: --datasets FILE" in done.output
