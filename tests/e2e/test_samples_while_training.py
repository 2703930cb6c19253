"""`ltx2 run` with samples and a held-out clip: processes one after another, one of them killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from flows.server import LocalServer
from ltxcore.pipeline.base.contract import RENDER, TRAIN
from ltxcore.pipeline.base.stamp import read_manifest, read_stamp
from ltxcore.store.blobs import read_json
from ltxcore.store.workspace import Workspace
from ltxcore.training.early_stop import read_evaluations
from ltxcore.training.metrics import read_metrics
from tests.e2e.readme import ROOT
from tests.e2e.stage_processes import stages_among
from tests.stages.conftest import CLIPS, DATASETS

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(1800)]

STEPS, INTERVAL = 6, 3
CHANGES: dict[str, dict[str, Any]] = {
    "training": {"max_train_steps": STEPS, "lr_warmup_steps": 0, "checkpoint_step_interval": 100},
    "evaluation": {"eval_datasets": ["held"], "eval_step_interval": INTERVAL},
    "validation": {
        "validation_step_interval": INTERVAL,
        "validation_prompts": {"disc": "A red disc."},
        "validation_resolution": "64x64",
        "validation_num_video_frames": 9,
        # Enough that the rendering still goes on when it is found and killed.
        "validation_num_inference_steps": 12,
    },
}


@pytest.fixture
def job(tmp_path: Path, sample_clips: Path, fresh_workspace: Path) -> list[str]:
    """The command of a short run on four clips, with a fifth held out."""
    for name in CLIPS:
        folder = tmp_path / ("held" if name == "twin.mov" else "clips")
        folder.mkdir(exist_ok=True)
        shutil.copy2(sample_clips / name, folder / name)
        stem = name.partition(".")[0]
        # A clip's caption is `stem.txt`, or `stem.mov.txt` where another clip has its stem.
        captions = [sample_clips / f"{name}.txt", sample_clips / f"{stem}.txt"]
        caption = next(file for file in captions if file.is_file())
        shutil.copy2(caption, folder / caption.name)
    shutil.copytree(fresh_workspace, tmp_path / "workspace")
    held = DATASETS.split("- id: text")[0].replace("clips", "held")
    (tmp_path / "datasets.yaml").write_text(DATASETS + held)
    recipe = yaml.safe_load((ROOT / "deploy/recipes/tiny.yaml").read_text())
    for section, keys in CHANGES.items():
        recipe[section] = {**recipe.get(section, {}), **keys}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    files = {"workspace": "workspace", "datasets": "datasets.yaml", "recipe": "recipe.yaml"}
    options = [word for name, file in files.items() for word in (f"--{name}", str(tmp_path / file))]
    return [sys.executable, "-m", "flows.cli", "run", *options]


def test_a_killed_rendering_of_a_step_is_made_up_for_and_the_training_goes_on(
    job: list[str], tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path / "workspace")
    # One server for both runs, and for what is asked of it afterwards.
    with LocalServer(workspace.root):
        first = subprocess.Popen(job, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            os.kill(_renderer_of_a_step(workspace, first).pid, signal.SIGKILL)
            output, _ = first.communicate(timeout=900)
        finally:
            first.kill()
        assert first.returncode == 1
        assert "render-validation crashed" in output
        training = _training(workspace)
        assert [m.step for m in read_metrics(training / "metrics.jsonl")] == [1, 2, 3]
        assert not (training / "stage.json").exists()

        second = subprocess.run(job, cwd=ROOT, capture_output=True, text=True, check=False)
        assert second.returncode == 0, second.stdout + second.stderr
        assert [m.step for m in read_metrics(training / "metrics.jsonl")] == list(range(1, STEPS + 1))
        assert [e.step for e in read_evaluations(training / "evaluations.jsonl")] == [0, 3, 6]
        assert not list(training.glob("samples/*")), "a LoRA that is rendered is dropped"
        assert " -> " in next(line for line in second.stdout.splitlines() if line.startswith("Held out"))
        run = workspace.run(read_json(workspace.runs / "newest.json")["run"])
        _check_processes(run)
        _check_gallery(workspace, run)
        _check_artifacts(workspace)


def _renderer_of_a_step(workspace: Workspace, parent: subprocess.Popen[str]) -> psutil.Process:
    """The process that renders the samples, once it has begun to."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        assert parent.poll() is None, parent.communicate()[0]
        for file in workspace.runs.glob(f"*/step-{INTERVAL:06d}/progress/{RENDER.name}.json"):
            if read_json(file)["done"] > 0:
                children = psutil.Process(parent.pid).children(recursive=True)
                (stage,) = stages_among(children)
                return stage
        time.sleep(0.05)
    raise AssertionError("no samples were rendered")


def _training(workspace: Workspace) -> Path:
    (found,) = [p for p in (workspace.stages / TRAIN.name).iterdir() if p.is_dir()]
    return found


def _check_processes(run: Path) -> None:
    entries = [
        read_manifest(run, TRAIN),
        read_manifest(run, RENDER),
        read_manifest(run / "step-000003", RENDER),
    ]
    assert len({entry.process for entry in entries if entry is not None}) == 3


def _check_gallery(workspace: Workspace, run: Path) -> None:
    entry = read_manifest(run, RENDER)
    assert entry is not None
    files = [workspace.root / file.path for file in read_stamp(workspace, entry).outcome.files]
    page = next(file for file in files if file.name == "index.html")
    assert "Step 3<" in page.read_text()
    assert page.parent / "steps/step-000003/disc-lora.mp4" in files
    for side in ("base", "lora"):
        assert (page.parent / f"disc-{side}.mp4").is_file()


def _check_artifacts(workspace: Workspace) -> None:
    """On Prefect's pages: a loss picture for each training process, and the samples of each step."""
    from prefect import get_client

    with get_client(sync_client=True) as client:
        found = [artifact.key for artifact in client.read_artifacts()]
    assert found.count("loss") == 2
    assert {"samples", f"samples-step-{INTERVAL}", "gallery", "contact-sheet"} <= set(found)
