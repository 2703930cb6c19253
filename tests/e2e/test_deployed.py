"""The pipeline as it is deployed: `ltx2 serve`, people at Prefect's pages, and its command line in front."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from flows.child_process import ROOT
from ltxcore.jobs.live_control import NoTraining, running_training
from ltxcore.pipeline.base.stamp import load_stamp
from ltxcore.stages.train_lora.control import decisions
from ltxcore.store.workspace import Workspace
from ltxcore.training.metrics import read_metrics
from tests.e2e.browser import find_chromium
from tests.e2e.readme import readme
from tests.e2e.serving import api, start_serving, until

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

    from bench.ui_clicks import Clicker

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

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
ENDLESS = 1_000_000
LIMIT_S = 600
RECIPE = {
    "model": {"pretrained_model_name_or_path": "tiny"},
    "lora": {"lora_rank": 4},
    "training": {
        "max_train_steps": ENDLESS,
        "checkpoint_step_interval": ENDLESS,
        "mixed_precision": "no",  # bf16 is slow on a CPU
    },
    "validation": {
        "validation_step_interval": 0,  # the training stays one process while people click
        "validation_num_inference_steps": 2,
        "validation_num_video_frames": 9,
        "validation_resolution": "64x64",
        "validation_prompts": {"one": "a blue box"},
    },
}
SHORT = {**RECIPE, "training": {**RECIPE["training"], "max_train_steps": 3}}


class House:
    """A served workspace and the Prefect command line on it."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        # No PREFECT_API_URL: the plugin finds the server of the workspace.
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"},
            "LTX2_WORKSPACE": str(workspace),
            "PREFECT_HOME": str(workspace / "prefect"),
            "DO_NOT_TRACK": "1",
            "PYTHONPATH": str(ROOT),
        }

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
        with api(self.workspace) as client:
            runs = sorted(client.read_flow_runs(), key=lambda run: run.created)
            names = {run.flow_id: client.read_flow(run.flow_id).name for run in runs}
        return [(names[run.flow_id], run) for run in runs]

    def runs_after(self, before: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
        """The runs that were not there before."""
        known = {run.id for _, run in before}
        return [(name, run) for name, run in self.runs() if run.id not in known]

    def state(self, run: Any) -> Any:
        """Its state now."""
        with api(self.workspace) as client:
            return client.read_flow_run(run.id).state

    def is_completed(self, run: Any, run_count: int) -> bool:
        with api(self.workspace) as client:
            found = client.read_flow_run(run.id)
        return found.run_count == run_count and found.state is not None and found.state.is_completed()

    def cancel(self, run_id: Any) -> None:
        from prefect.client.schemas.objects import State, StateType

        with api(self.workspace) as client:
            client.set_flow_run_state(run_id, State(type=StateType.CANCELLING, name="Cancelling"))


@pytest.fixture(scope="module")
def house(
    tmp_path_factory: pytest.TempPathFactory, sample_clips: Path, fresh_workspace: Path
) -> Iterator[House]:
    root = tmp_path_factory.mktemp("house")
    (root / "clips").mkdir()
    for name in CLIPS:
        shutil.copy(sample_clips / name, root / "clips")
        caption = (sample_clips / name).with_suffix(".txt")
        if caption.exists():
            shutil.copy(caption, root / "clips")
    (root / "datasets.yaml").write_text(DATASETS)
    (root / "recipe.yaml").write_text(json.dumps(RECIPE))
    shutil.copytree(fresh_workspace, root / "workspace")
    supervisor, _ = start_serving(root / "workspace", root / "datasets.yaml", root / "recipe.yaml")
    yield House(root / "workspace")
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(300) == 0


@dataclass(frozen=True)
class Watched:
    """A run of the whole pipeline, started from the command line, whose training goes on without end."""

    command: subprocess.Popen[str]
    runs: list[tuple[str, Any]]
    """The parent and its stages, when the training had begun."""


@pytest.fixture(scope="module")
def watched(house: House) -> Watched:
    # The bare name, by the plugin hook.
    command = house.prefect(*readme("prefect deployment run train-ltx2 --watch")[1:])
    until(lambda: training_has_begun(house) or command.poll() is not None, LIMIT_S)
    assert command.poll() is None, command.communicate()[0]
    return Watched(command, house.runs())


def training_has_begun(house: House) -> bool:
    return any(path.stat().st_size > 0 for path in house.workspace.glob("stages/train-lora/*/metrics.jsonl"))


def test_each_click_has_its_effect_while_a_training_runs(house: House, watched: Watched) -> None:
    """The short version of `bench/serve_load.py`: people click while it trains, and the machine is busy."""
    find_chromium()
    from bench.busy import busy
    from bench.serve_load import clicking, ended_well
    from bench.ui_clicks import ROUND, SHORT_STAGE

    rounds, limit_s = 2, 600.0
    with api(house.workspace) as client, busy(1), clicking(house.workspace, client, limit_s) as clicker:
        clicker.last_ended(SHORT_STAGE)
        for number in range(rounds):
            clicker.play_round(number, pause=lambda: None)
        assert [click for click in clicker.clicks if click.failure is not None] == []
        assert [click.action for click in clicker.clicks] == [*ROUND] * rounds
        assert ended_well(client, clicker, limit_s) == len(set(clicker.retried))
    _, parent = watched.runs[0]
    assert house.state(parent).is_running()
    assert watched.command.poll() is None


def test_run_cancel_and_rerun_from_the_command_line(house: House, watched: Watched) -> None:
    # The parent is cancelled while its training runs.
    assert [name for name, _ in watched.runs] == ["train-ltx2", *STAGES[:5]]
    (_, parent), (_, training) = watched.runs[0], watched.runs[5]
    house.cancel(parent.id)
    until(lambda: house.state(training).name == "Cancelled", LIMIT_S)
    until(lambda: house.state(parent).name == "Cancelled", LIMIT_S)
    output = watched.command.communicate(timeout=LIMIT_S)[0]
    assert watched.command.returncode == 1, output
    assert list(house.workspace.glob("stages/train-lora/*/checkpoint-*/")), "no checkpoint on cancellation"

    # The recipe was edited in the afternoon: the next run reads it, and only what depends on it runs, each in
    # a process of its own. That it is edited again while the run works changes nothing of the run.
    file = house.workspace.parent / "recipe.yaml"
    file.write_text(json.dumps(SHORT))
    before = house.runs()
    again = house.prefect("deployment", "run", "train-ltx2/train-ltx2", "--watch")
    until(lambda: len(house.runs_after(before)) > 1 or again.poll() is not None, LIMIT_S)
    bad_edit = "training:\n  max_train_steps: 3\n  lerning_rate: 1.0e-4\n"
    file.write_text(bad_edit)
    output = again.communicate(timeout=LIMIT_S)[0]
    assert again.returncode == 0, output
    made = house.runs_after(before)
    assert [name for name, _ in made] == ["train-ltx2", "train-lora", "render-validation"]
    processes = {
        json.loads(path.read_text())["process"] for path in house.workspace.glob("stages/*/*/stage.json")
    }
    assert len(processes) == len(STAGES)

    # The retried parent finds everything in place and starts no stage.
    _, last_parent = made[0]
    retry = house.prefect("flow-run", "retry", str(last_parent.id))
    assert retry.wait(LIMIT_S) == 0, retry.communicate()[0]
    until(lambda: house.is_completed(last_parent, run_count=2), LIMIT_S)
    assert len(house.runs_after(before)) == 3

    # One stage alone, and a parameter that the form would not take.
    file.write_text(json.dumps(SHORT))
    alone = house.prefect("deployment", "run", "probe-media", "--watch")
    assert alone.wait(LIMIT_S) == 0, alone.communicate()[0]
    bad = house.prefect("deployment", "run", "train-ltx2", "--param", 'overrides={"lora_rnk": 8}')
    output = bad.communicate(timeout=LIMIT_S)[0]
    assert bad.returncode == 1
    assert "lora_rnk" in output

    # The bad edit fails the next run before its first stage, with line and key.
    file.write_text(bad_edit)
    before = house.runs()
    failed = house.prefect("deployment", "run", "train-ltx2", "--watch")
    assert failed.wait(LIMIT_S) == 1, failed.communicate()[0]
    ((_, run),) = house.runs_after(before)
    message = run.state.message
    assert "recipe.yaml:3" in message
    assert "learning_rate" in message


@pytest.mark.long
def test_a_training_is_saved_sampled_and_stopped_by_clicks(house: House) -> None:
    find_chromium()
    from prefect.states import Scheduled

    from bench.serve_load import clicking

    (house.workspace.parent / "recipe.yaml").write_text(json.dumps(RECIPE))
    space, before = Workspace(house.workspace), house.runs()
    with api(house.workspace) as client, clicking(house.workspace, client, LIMIT_S) as clicker:

        def click(name: str) -> str:
            """Quick run of a deployment; what its run says in the end."""
            run = clicker.submit(name, custom=False)
            # The second of two clicks, which a slow page would let come too late.
            deployment = client.read_deployment_by_name(f"{name}/{name}").id
            moment = Scheduled(scheduled_time=run.expected_start_time)
            second = client.create_flow_run_from_deployment(deployment, state=moment)
            until(lambda: all(house.state(one).is_final() for one in (run, second)), LIMIT_S)
            assert house.state(run).is_completed(), house.state(run).message
            return str(house.state(run).message)

        parent = clicker.submit("train-ltx2", custom=False)
        until(lambda: trained_steps(space) > 0 or house.state(parent).is_final(), LIMIT_S)
        assert not house.state(parent).is_final(), house.state(parent).message
        directory = running_training(space).directory
        at = step_in(click("training-save"))
        assert (directory / f"checkpoint-{at}").is_dir()
        sampled = step_in(click("training-sample"))
        until(lambda: trained_steps(space) > sampled, LIMIT_S)
        assert decisions(directory).sampled == (sampled,)
        (page,) = artifacts(client, parent)
        assert f"[Samples of step {sampled}](http://" in page.data
        stopped = step_in(click("training-stop"))
        until(lambda: house.state(parent).is_final(), LIMIT_S)
        named = client.read_flow_run(parent.id)
        assert named.name.startswith("recipe on clips, ")
        assert {"ltx2", "model:tiny", "dataset:clips"} <= set(named.tags)
        (page,) = (artifact for artifact in artifacts(client, parent) if artifact.key == "run")
        assert page.data.strip().startswith("**Done**")
        look_at_the_page(clicker, parent)
    assert house.state(parent).is_completed(), house.state(parent).message
    assert load_stamp(directory / "stage.json").stopped_after == stopped
    assert read_metrics(directory / "metrics.jsonl")[-1].step == stopped
    stages = [name for name, _ in house.runs_after(before) if name in STAGES]
    assert stages[-4:] == ["train-lora", "render-validation", "train-lora", "render-validation"]
    pages = house.workspace.glob("stages/render-validation/*/index.html")
    assert any(f"Step {sampled}<" in page.read_text() for page in pages), "its gallery has the sample"


def trained_steps(space: Workspace) -> int:
    """Steps that the training that goes on has done; 0 where none does."""
    try:
        return running_training(space).progress.done
    except NoTraining:
        return 0


def artifacts(client: SyncPrefectClient, run: Any) -> list[Any]:
    """Those of a run."""
    wanted = {"flow_run_id": {"any_": [str(run.id)]}}
    answer = client.request("POST", "/artifacts/filter", json={"artifacts": wanted})
    return [SimpleNamespace(**found) for found in answer.json()]


def look_at_the_page(clicker: Clicker, run: Any) -> None:
    """The page is on the run's Artifacts tab."""
    clicker.page.goto(f"{clicker.ui}/v2/runs/flow-run/{run.id}?tab=Artifacts")
    clicker.page.get_by_text("The run: its stages, losses, samples and files").first.wait_for()


def step_in(message: str) -> int:
    """The step that the answer to a click names."""
    return int(message.partition("step ")[2].split(" ")[0].rstrip(",;"))
