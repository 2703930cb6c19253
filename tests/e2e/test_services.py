"""What the server of `make serve` does by itself, by effect: schedules, late runs, zombies, lost workers."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors import safe_open

from flows.child_process import ROOT, python_path, start_child
from flows.environment import logs_directory, worker_environment
from flows.secret import client_environment
from flows.server import find_server
from tests.e2e.server_work import (
    TELEMETRY,
    Question,
    age_an_event,
    cancel_a_parent,
    expire_a_pause,
    forget_a_cancellation,
    lose_a_lease,
    services,
    suspend,
    take_slot,
    turns,
)
from tests.e2e.serving import api, start_serving, until

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(1800)]

LOOPS = (
    "CANCELLATION_CLEANUP",
    "CLEANUP_RECONCILER",
    "DB_VACUUM",
    "FOREMAN",
    "LATE_RUNS",
    "PAUSE_EXPIRATIONS",
    "REPOSSESSOR",
    "SCHEDULER",
)
DATASETS = """
- id: clips
  dataset_type: video
  instance_data_dir: clips
  resolution: 64
  resolution_type: pixel
  video: {num_frames: 17}
- {id: text, dataset_type: text_embeds}
"""
RECIPE = """
lora: {lora_rank: 4}
training: {max_train_steps: 3, lr_warmup_steps: 0, mixed_precision: "no"}
validation:
  validation_prompts: {one: a blue box}
  validation_num_inference_steps: 2
  validation_num_video_frames: 9
  validation_resolution: 64x64
"""
STAGES = ["probe-media", "split-audio", "encode-latents", "embed-text", "train-lora", "render-validation"]
# 90 s as shipped, which the test would wait for twice. Prefect sends heartbeats every 30 s at most.
ZOMBIE_AFTER_S = 45
TURNS = 60
LIMIT_S = 600


def test_the_server_does_by_itself_what_it_promises(
    tmp_path: Path, sample_clips: Path, fresh_workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for loop in LOOPS:
        monkeypatch.setenv(f"PREFECT_SERVER_SERVICES_{loop}_LOOP_SECONDS", "1")
    # Prefect keeps "database is locked" out of its log otherwise.
    monkeypatch.setenv("PREFECT_SERVER_LOG_RETRYABLE_ERRORS", "true")
    # The turns of the loops are told at this level.
    monkeypatch.setenv("PREFECT_LOGGING_ROOT_LEVEL", "INFO")
    monkeypatch.setenv("PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS", "1")
    monkeypatch.setenv("PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY", "PT1S")
    monkeypatch.setenv("PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_CANCELLING_TIMEOUT_SECONDS", "2")
    monkeypatch.setenv("PREFECT_SERVER_WORKER_CHANNEL_CLEANUP_LEASE_SECONDS", "1")
    (tmp_path / "clips").mkdir()
    for suffix in (".mp4", ".txt"):
        shutil.copy(sample_clips / f"blue-box-up{suffix}", tmp_path / "clips")
    (tmp_path / "datasets.yaml").write_text(DATASETS)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    workspace = tmp_path / "workspace"
    shutil.copytree(fresh_workspace, workspace)
    supervisor, _ = start_serving(workspace, tmp_path / "datasets.yaml", recipe)
    try:
        questions = [lose_a_lease(workspace)]
        watch_a_night(workspace, questions)
        watch_the_zombies(workspace, recipe)
        for question in questions:
            until(question, LIMIT_S)
        # Every loop has had dozens of turns by now.
        until(lambda: services_have_turned(workspace, TURNS), LIMIT_S)
        assert turns(workspace)[TELEMETRY] == 0
    finally:
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(300) == 0
    text = (logs_directory(workspace) / "server.log").read_text()
    assert not re.findall(r".*(?:ERROR|CRITICAL|Traceback|database is locked).*", text), text[-8000:]


def services_have_turned(workspace: Path, times: int) -> bool:
    found = turns(workspace)
    return all(found[name] >= times for name in services())


def watch_a_night(workspace: Path, questions: list[Question]) -> None:
    """A scheduled train-ltx2 starts by itself and completes, while the services do their other work."""
    nightly = switch_the_night_on(workspace)
    until(lambda: len(scheduled(workspace, "train-ltx2")) >= 3, LIMIT_S)
    soon = schedule_soon(workspace, "train-ltx2")
    until(lambda: any(run.start_time for run in scheduled(workspace, "train-ltx2")), LIMIT_S)
    for schedule in (nightly, soon):
        switch_off(workspace, "train-ltx2", schedule)

    questions += [expire_a_pause(workspace), cancel_a_parent(workspace), age_an_event(workspace)]
    questions.append(forget_a_cancellation(workspace))

    until(lambda: ends(workspace, "train-ltx2"), LIMIT_S)
    (night,) = ends(workspace, "train-ltx2")
    assert night.state.is_completed(), night.state
    assert night.auto_scheduled
    for stage in STAGES:
        (run,) = runs_of(workspace, stage)
        assert run.state.is_completed(), run.state
    (lora,) = workspace.glob("stages/train-lora/*/lora/pytorch_lora_weights.safetensors")
    with safe_open(lora, "np") as file:
        assert list(file.keys())
    (tracked,) = mlflow_runs(workspace)
    assert tracked.info.status == "FINISHED"
    # The service that records tasks has those of the night.
    until(lambda: {task.state.type.value for task in task_runs(workspace, night)} == {"COMPLETED"}, LIMIT_S)


def watch_the_zombies(workspace: Path, recipe: Path) -> None:
    """A killed worker's run becomes Crashed, a suspended one does not; one that nobody takes becomes Late."""
    from flows.gpu_lease import gpu_limit_name

    recipe.write_text(RECIPE.replace("max_train_steps: 3", "max_train_steps: 4"))
    shorten_the_zombies(workspace)
    with api(workspace) as client:
        lease = take_slot(client, gpu_limit_name(), 3600)
    # Its worker has one place only, and it waits for the GPU there.
    suspended = run_now(workspace, "train-lora")
    until(lambda: heartbeats(workspace, suspended), LIMIT_S)
    suspend(workspace, suspended)
    heard = heartbeats(workspace, suspended)

    with far_worker(workspace) as worker:
        move(workspace, "train-ltx2", "far")
        parent = run_now(workspace, "train-ltx2")
        until(lambda: heartbeats(workspace, parent) and len(runs_of(workspace, "train-lora")) == 3, LIMIT_S)
        (process,) = worker_children(worker)
        worker.kill()
        process.kill()
        worker.wait()
    assert state(workspace, parent).is_running()
    until(lambda: "Late" in [run.state.name for run in runs_of(workspace, "train-lora")], LIMIT_S)
    until(lambda: workers(workspace, "far") == ["OFFLINE"], LIMIT_S)

    # Its process still says that it lives, and ends at its next task.
    until(lambda: heartbeats(workspace, suspended) > heard, LIMIT_S)
    give_back(workspace, lease)
    until(lambda: str(suspended) not in running_ids(), LIMIT_S)

    until(lambda: state(workspace, parent).is_crashed(), LIMIT_S)
    assert (state(workspace, parent).message or "").startswith("No heartbeat"), state(workspace, parent)
    silent_for = timedelta(seconds=ZOMBIE_AFTER_S + 10)
    until(lambda: datetime.now(UTC) - last_heartbeat(workspace, suspended) > silent_for, LIMIT_S)
    assert state(workspace, suspended).name == "Suspended", state(workspace, suspended)
    with api(workspace) as client:
        client.resume_flow_run(suspended)
    until(lambda: state(workspace, suspended).is_completed(), LIMIT_S)


def switch_the_night_on(workspace: Path) -> Any:
    with api(workspace) as client:
        parent = client.read_deployment_by_name("train-ltx2/train-ltx2")
        (night,) = parent.schedules
        client.update_deployment_schedule(parent.id, night.id, active=True)
        return night.id


def schedule_soon(workspace: Path, name: str) -> Any:
    """A schedule that begins in seconds; where the server was too busy for that, a minute later."""
    from prefect.client.schemas.schedules import IntervalSchedule

    with api(workspace) as client:
        deployment = client.read_deployment_by_name(f"{name}/{name}")
        soon = datetime.now(UTC) + timedelta(seconds=10)
        schedule = IntervalSchedule(interval=timedelta(minutes=1), anchor_date=soon)
        (made,) = client.create_deployment_schedules(deployment.id, [(schedule, True)])
        return made.id


def switch_off(workspace: Path, name: str, schedule: Any) -> None:
    with api(workspace) as client:
        deployment = client.read_deployment_by_name(f"{name}/{name}")
        client.update_deployment_schedule(deployment.id, schedule, active=False)


def runs_of(workspace: Path, name: str) -> list[Any]:
    from prefect.client.schemas.filters import FlowFilter

    with api(workspace) as client:
        return client.read_flow_runs(flow_filter=FlowFilter.model_validate({"name": {"any_": [name]}}))


def scheduled(workspace: Path, name: str) -> list[Any]:
    """The runs that the scheduler made."""
    return [run for run in runs_of(workspace, name) if run.auto_scheduled]


def ends(workspace: Path, name: str) -> list[Any]:
    """The runs that have ended; one that would have begun beside another is Cancelled at once."""
    return [run for run in runs_of(workspace, name) if run.state.is_final() and not run.state.is_cancelled()]


def task_runs(workspace: Path, run: Any) -> list[Any]:
    from prefect.client.schemas.filters import FlowRunFilter

    wanted = FlowRunFilter.model_validate({"id": {"any_": [run.id]}})
    with api(workspace) as client:
        return client.read_task_runs(flow_run_filter=wanted)


def mlflow_runs(workspace: Path) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{workspace}/mlflow/mlflow.db")
    return list(client.search_runs([found.experiment_id for found in client.search_experiments()]))


def state(workspace: Path, run: Any) -> Any:
    with api(workspace) as client:
        return client.read_flow_run(run).state


def shorten_the_zombies(workspace: Path) -> None:
    """The automation that is shipped, with another time."""
    from flows.deployment import shipped_automations

    with api(workspace) as client:
        (found,) = client.request("POST", "/automations/filter", json={}).json()
        (zombies,) = shipped_automations(silence_s=ZOMBIE_AFTER_S)
        assert found["name"] == zombies.name == "ltx2-zombies"
        path = {"id": found["id"]}
        asked = zombies.model_dump(mode="json", exclude={"owner_resource"})
        client.request("PUT", "/automations/{id}", path_params=path, json=asked).raise_for_status()


def give_back(workspace: Path, lease: str) -> None:
    path = "/v2/concurrency_limits/decrement-with-lease"
    with api(workspace) as client:
        client.request("POST", path, json={"lease_id": lease}).raise_for_status()


def running_ids() -> set[str]:
    """The flow runs that have a process on this machine."""
    found = set()
    for process in psutil.process_iter():
        try:
            found.add(process.environ().get("PREFECT__FLOW_RUN_ID", ""))
        except (psutil.Error, OSError):
            continue  # It has just ended.
    return found


@contextmanager
def far_worker(workspace: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that `ltx2 serve` did not start, with a pool of its own."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.workers.process import ProcessWorker

    server = find_server(workspace)
    assert server is not None
    with api(workspace) as client:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name="far", type="process", base_job_template=template))
    environment = {
        **os.environ,
        **worker_environment(workspace),
        **client_environment(workspace / "prefect"),
        "PREFECT_API_URL": server.url,
        "PREFECT_WORKER_HEARTBEAT_SECONDS": "2",
        "PYTHONPATH": python_path(),
    }
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "far", "--type", "process"]
    with (logs_directory(workspace) / "far.log").open("wb") as log:
        worker = start_child(command, environment, log=log, cwd=ROOT)
    try:
        yield worker
    finally:
        worker.kill()
        worker.wait()


def move(workspace: Path, name: str, pool: str) -> None:
    from prefect.client.schemas.actions import DeploymentUpdate

    with api(workspace) as client:
        deployment = client.read_deployment_by_name(f"{name}/{name}")
        client.update_deployment(deployment.id, DeploymentUpdate(work_pool_name=pool))


def run_now(workspace: Path, name: str) -> Any:
    with api(workspace) as client:
        deployment = client.read_deployment_by_name(f"{name}/{name}")
        return client.create_flow_run_from_deployment(deployment.id).id


def worker_children(worker: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The flow processes of a worker."""
    children = psutil.Process(worker.pid).children(recursive=True)
    return [child for child in children if "PREFECT__FLOW_RUN_ID" in child.environ() and not child.children()]


def heartbeats(workspace: Path, run: Any) -> int:
    return int(heartbeat_events(workspace, run)["total"])


def last_heartbeat(workspace: Path, run: Any) -> datetime:
    return max(datetime.fromisoformat(e["occurred"]) for e in heartbeat_events(workspace, run)["events"])


def heartbeat_events(workspace: Path, run: Any) -> Any:
    """A page of them, the newest first, and how many there are."""
    asked = {
        "filter": {
            "event": {"name": ["prefect.flow-run.heartbeat"]},
            "resource": {"id": [f"prefect.flow-run.{run}"]},
        }
    }
    with api(workspace) as client:
        return client.request("POST", "/events/filter", json=asked).json()


def workers(workspace: Path, pool: str) -> list[str]:
    """What the server thinks of the workers of a pool."""
    with api(workspace) as client:
        path = {"work_pool_name": pool}
        answer = client.request(
            "POST", "/work_pools/{work_pool_name}/workers/filter", path_params=path, json={}
        )
        return [worker["status"] for worker in answer.json()]
