"""The pipeline as it is deployed: `ltx2 serve`, and the Prefect command line in front of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.leash import ROOT
from flows.server import find_server
from tests.e2e.readme import readme
from tests.e2e.serving import start_serving, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

STAGES = ("probe-media", "split-audio", "encode-latents", "embed-text", "train-lora", "render-validation")
CLIPS = ("blue-box-up.mp4", "red-disc-right.mp4", "orange-disc-silent.mp4", "no-caption.mp4")
DATASETS = """
- id: clips
  dataset_type: video
  instance_data_dir: clips
  resolution: 64
  resolution_type: pixel
  video: {num_frames: 17}
- {id: text, dataset_type: text_embeds}
"""
ENDLESS = 100_000
RECIPE = {
    "model": {"pretrained_model_name_or_path": "tiny"},
    "lora": {"lora_rank": 4},
    "training": {
        "max_train_steps": ENDLESS,
        "checkpoint_step_interval": ENDLESS,
        "mixed_precision": "no",  # bf16 is slow on a CPU
    },
    "validation": {
        "validation_num_inference_steps": 2,
        "validation_num_video_frames": 9,
        "validation_resolution": "64x64",
        "validation_prompts": {"one": "a blue box"},
    },
}
SHORT = {**RECIPE, "training": {**RECIPE["training"], "max_train_steps": 3}}


class House:
    """A served workspace and the Prefect command line on it."""

    def __init__(self, workspace: Path, url: str) -> None:
        self.workspace = workspace
        # No PREFECT_API_URL: the plugin finds the server of the workspace.
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"},
            "LTX2_WORKSPACE": str(workspace),
            "PREFECT_HOME": str(workspace / "prefect"),
            "DO_NOT_TRACK": "1",
            "PYTHONPATH": str(ROOT),
        }
        self.url = url

    def prefect(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "prefect", *arguments],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def runs(self) -> list[tuple[str, Any]]:
        """Every flow run with its flow's name, oldest first."""
        from prefect.client.orchestration import SyncPrefectClient

        with SyncPrefectClient(self.url) as client:
            runs = sorted(client.read_flow_runs(), key=lambda run: run.created)
            names = {run.flow_id: client.read_flow(run.flow_id).name for run in runs}
        return [(names[run.flow_id], run) for run in runs]

    def cancel(self, run_id: Any) -> None:
        from prefect.client.orchestration import SyncPrefectClient
        from prefect.client.schemas.objects import State, StateType

        with SyncPrefectClient(self.url) as client:
            client.set_flow_run_state(run_id, State(type=StateType.CANCELLING, name="Cancelling"))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, sample_clips: Path, tiny_models: Path) -> Iterator[House]:
    root = tmp_path_factory.mktemp("house")
    (root / "clips").mkdir()
    for name in CLIPS:
        shutil.copy(sample_clips / name, root / "clips")
        caption = (sample_clips / name).with_suffix(".txt")
        if caption.exists():
            shutil.copy(caption, root / "clips")
    (root / "datasets.yaml").write_text(DATASETS)
    (root / "recipe.yaml").write_text(json.dumps(RECIPE))
    shutil.copytree(tiny_models, root / "workspace" / "models")
    supervisor, _ = start_serving(root / "workspace", root / "datasets.yaml", root / "recipe.yaml")
    server = find_server(root / "workspace")
    assert server is not None
    yield House(root / "workspace", server.url)
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(60) == 0


def training_has_begun(house: House) -> bool:
    return any(path.stat().st_size > 0 for path in house.workspace.glob("stages/train-lora/*/metrics.jsonl"))


def test_run_cancel_and_rerun_from_the_command_line(house: House) -> None:
    # The bare name, by the plugin hook. The parent is cancelled while its training runs.
    watched = house.prefect(*readme("prefect deployment run train-ltx2 --watch")[1:])
    until(lambda: training_has_begun(house) or watched.poll() is not None, 240)
    assert watched.poll() is None, watched.communicate()[0]
    (parent,) = [run for name, run in house.runs() if name == "train-ltx2"]
    house.cancel(parent.id)
    runs = lambda: {name: run.state.name for name, run in house.runs()}  # noqa: E731
    assert until(lambda: runs()["train-lora"] == "Cancelled", 40) < 35
    until(lambda: runs()["train-ltx2"] == "Cancelled", 40)
    output = watched.communicate(timeout=60)[0]
    assert watched.returncode == 1, output
    assert [name for name, _ in house.runs()] == ["train-ltx2", *STAGES[:5]]
    assert list(house.workspace.glob("stages/train-lora/*/checkpoint-*/")), "no checkpoint on cancellation"

    # Another recipe: only what depends on it runs, each in a process of its own.
    short = f"recipe={json.dumps(SHORT)}"
    watched = house.prefect("deployment", "run", "train-ltx2/train-ltx2", "--param", short, "--watch")
    output = watched.communicate(timeout=240)[0]
    assert watched.returncode == 0, output
    assert [name for name, _ in house.runs()][6:] == ["train-ltx2", "train-lora", "render-validation"]
    processes = {
        json.loads(path.read_text())["process"] for path in house.workspace.glob("stages/*/*/stage.json")
    }
    assert len(processes) == len(STAGES)

    # The retried parent finds everything in place and starts no stage.
    last_parent = [run for name, run in house.runs() if name == "train-ltx2"][-1]
    retry = house.prefect("flow-run", "retry", str(last_parent.id))
    assert retry.wait(60) == 0, retry.communicate()[0]
    until(lambda: house.runs()[6][1].run_count == 2 and house.runs()[6][1].state.is_completed(), 60)
    assert len(house.runs()) == 9

    # One stage alone, and a parameter that the form would not take.
    alone = house.prefect("deployment", "run", "probe-media", "--watch")
    assert alone.wait(90) == 0, alone.communicate()[0]
    bad = house.prefect("deployment", "run", "train-ltx2", "--param", 'recipe={"trainin": {}}')
    output = bad.communicate(timeout=60)[0]
    assert bad.returncode == 1
    assert "trainin" in output
