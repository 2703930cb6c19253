"""The summary in the terminal of a stage that was run alone."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from flows.display import print_summary, summary_json
from ltxcore.pipeline.base.contract import PROBE, RENDER, TRAIN
from ltxcore.pipeline.base.stamp import Outcome, output_file
from ltxcore.store.workspace import Workspace
from tests.published_run import FinishedRun


def summary(workspace: Workspace, run: Path) -> str:
    written = io.StringIO()
    print_summary(Console(file=written, width=200), workspace, run, "make serve")
    return written.getvalue()


@pytest.fixture
def made(tmp_path: Path) -> FinishedRun:
    made = FinishedRun(tmp_path)
    made.train(first_loss=4.5, last_loss=0.5)
    return made


def alone(made: FinishedRun, stage: str) -> str:
    """What is told of a run that had this stage only."""
    run = made.workspace.run("alone")
    run.mkdir()
    shutil.copy2(made.run / f"{stage}.json", run)
    return summary(made.workspace, run)


def test_a_training_alone_tells_its_losses_and_files(made: FinishedRun) -> None:
    text = alone(made, TRAIN.name)
    assert "Loss     4.5000 -> 0.5000" in text
    assert "pytorch_lora_weights.safetensors" in text
    assert "ltx2_lora_comfyui.safetensors" in text
    assert "Clips" not in text


def test_a_rendering_alone_tells_its_gallery(made: FinishedRun) -> None:
    page = made._directory(RENDER) / "index.html"
    page.write_text("<p>")
    made._note(RENDER, Outcome(files=(output_file(made.workspace, page),)))
    text = alone(made, RENDER.name)
    assert f"Gallery  {page}" in text
    assert "LoRA" not in text


def test_probing_alone_tells_the_clips(made: FinishedRun) -> None:
    assert "Clips    1 taken in 1 bucket, 0 rejected\n" in alone(made, PROBE.name)


def test_the_summary_for_programs_has_what_the_terminal_tells(made: FinishedRun) -> None:
    found = summary_json(made.workspace, made.run, 0)
    assert found["done"]
    assert found["clips"] == {"taken": 1, "rejected": {}}
    assert found["loss"] == {"first": 4.5, "last": 0.5}
    assert {Path(file).name for file in found["loras"]} == {
        "pytorch_lora_weights.safetensors",
        "ltx2_lora_comfyui.safetensors",
    }
    assert [stage["stage"] for stage in found["stages"]] == [PROBE.name, TRAIN.name, RENDER.name]
    (made.run / "error.txt").write_text("no memory left\n")
    failed = summary_json(made.workspace, made.run, 1)
    assert (failed["done"], failed["error"]) == (False, "no memory left")
