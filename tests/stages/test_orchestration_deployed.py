"""Stages as deployments: parent and children in a real worker on a real Prefect server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.child_process import ROOT, start_child
from flows.environment import worker_environment
from flows.server import LocalServer, stop
from tests.e2e.serving import until
from tests.stages.conftest import make_bench

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

LIMIT_S = 600
FLOWS = {
    "first-stage": "fake_flows.py:first_stage",
    "second-stage": "fake_flows.py:second_stage",
    "two-stages": "fake_flows.py:two_stages",
    "train-on-a-card": "memory_flows.py:train_on_a_card",
    "parent-of-a-training": "memory_flows.py:parent_of_a_training",
}


def prefect_file(directory: Path) -> Path:
    document = {
        "pull": [{"prefect.deployments.steps.set_working_directory": {"directory": "{{ $LTX2_ROOT }}"}}],
        "deployments": [
            {
                "name": name,
                "entrypoint": f"tests/stages/{entrypoint}",
                "work_pool": {"name": "cpu"},
            }
            for name, entrypoint in FLOWS.items()
        ],
    }
    path = directory / "prefect.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, fresh_workspace: Path) -> Iterator[LocalServer]:
    workspace = tmp_path_factory.mktemp("served") / "workspace"
    shutil.copytree(fresh_workspace, workspace)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        with LocalServer(workspace) as running:
            from flows.deployment import deploy, prepare_server

            prepare_server()
            deploy(prefect_file(workspace), running.environment)
            worker = start_worker(running)
            yield running
            stop(worker, 60)


def start_worker(server: LocalServer) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "cpu", "--type", "process"]
    environment = {
        **os.environ,
        **worker_environment(server.workspace),
        "PREFECT_API_URL": server.url,
        "LTX2_ROOT": str(ROOT),
        "PYTHONPATH": str(ROOT),
    }
    with (server.workspace / "logs" / "worker.log").open("ab") as log:
        return start_child(command, environment, log=log)


def start_run(workspace: Path, mode: str) -> Any:
    from prefect.deployments import run_deployment

    return run_deployment(
        "two-stages/two-stages",
        parameters={"workspace": str(workspace), "mode": mode},
        timeout=0,
        as_subflow=False,
    )


def read(run_id: Any) -> Any:
    from prefect import get_client

    with get_client(sync_client=True) as client:
        return client.read_flow_run(run_id)


def children(workspace: Path) -> dict[str, Any]:
    """The stages' runs of the parent whose workspace this is, by flow."""
    from prefect import get_client

    with get_client(sync_client=True) as client:
        runs = [r for r in client.read_flow_runs() if r.parameters.get("workspace") == str(workspace)]
        names = {r.flow_id: client.read_flow(r.flow_id).name for r in runs}
    stages = [r for r in runs if names[r.flow_id] != "two-stages"]
    found = {names[r.flow_id]: r for r in stages}
    assert len(found) == len(stages), "a stage has more than one run"
    return found


def set_state(run_id: Any, kind: str, name: str) -> None:
    from prefect import get_client
    from prefect.client.schemas.objects import State, StateType

    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run_id, State(type=StateType(kind), name=name))


def suspend(run_id: Any) -> None:
    """What the button Suspend of the UI asks for."""
    from prefect import get_client
    from prefect.client.schemas.objects import State, StateDetails, StateType

    details = StateDetails(pause_timeout=datetime.now(UTC) + timedelta(hours=1), pause_reschedule=True)
    with get_client(sync_client=True) as client:
        state: State[Any] = State(type=StateType.PAUSED, name="Suspended", state_details=details)
        client.set_flow_run_state(run_id, state)


def is_final(run_id: Any) -> Callable[[], bool]:
    return lambda: bool(read(run_id).state.is_final())


def trace(root: Path) -> list[list[str]]:
    path = root / "trace"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def test_a_retried_parent_reruns_only_what_failed(server: LocalServer, tmp_path: Path) -> None:
    run = start_run(tmp_path, "kill")
    until(is_final(run.id), LIMIT_S)
    failed = read(run.id)
    assert failed.state.name == "Failed"
    assert "second-stage crashed" in failed.state.message
    assert "SIGKILL" in failed.state.message
    assert len({pid for _, pid, _ in trace(tmp_path)}) == 3
    before = children(tmp_path)
    assert before["second-stage"].state.name == "Crashed"

    (tmp_path / "mended").touch()
    set_state(run.id, "SCHEDULED", "AwaitingRetry")
    until(lambda: read(run.id).state.is_completed(), LIMIT_S)
    after = children(tmp_path)
    assert {name: r.id for name, r in after.items()} == {name: r.id for name, r in before.items()}
    assert {name: r.run_count for name, r in after.items()} == {"first-stage": 1, "second-stage": 2}
    assert [name for name, _, _ in trace(tmp_path)] == ["parent", "first", "second", "parent", "second"]


def test_a_suspended_parent_starts_no_further_stage_until_it_is_resumed(
    server: LocalServer, tmp_path: Path
) -> None:
    from prefect import get_client

    run = start_run(tmp_path, "wait")
    until(lambda: [name for name, _, _ in trace(tmp_path)] == ["parent", "first"], LIMIT_S)
    suspend(run.id)
    (tmp_path / "go").touch()
    parent = int(trace(tmp_path)[0][1])
    until(lambda: not Path(f"/proc/{parent}").exists(), LIMIT_S)
    assert read(run.id).state.name == "Suspended"
    assert set(children(tmp_path)) == {"first-stage"}
    with get_client(sync_client=True) as client:
        client.resume_flow_run(run.id)
    until(lambda: read(run.id).state.is_completed(), LIMIT_S)
    assert [name for name, _, _ in trace(tmp_path)] == ["parent", "first", "parent", "second"]


@pytest.mark.parametrize("mode", ["sleep", "train"])
def test_cancelling_the_parent_cancels_its_stage(server: LocalServer, tmp_path: Path, mode: str) -> None:
    run = start_run(tmp_path, mode)
    until((tmp_path / "at-work").exists, LIMIT_S)
    set_state(run.id, "CANCELLING", "Cancelling")
    child = children(tmp_path)["second-stage"]
    until(is_final(child.id), LIMIT_S)
    until(is_final(run.id), LIMIT_S)
    assert read(run.id).state.name == "Cancelled"
    # The engine reports the signal as a crash; the worker, which sent it, then says what it was.
    until(lambda: read(child.id).state.name == "Cancelled", LIMIT_S)
    if mode == "train":
        assert (tmp_path / "checkpoint").read_text() == "whole"
    process = int(trace(tmp_path)[-1][1])
    until(lambda: not Path(f"/proc/{process}").exists(), LIMIT_S)


def test_preparing_and_deploying_again_changes_nothing(server: LocalServer) -> None:
    from prefect import get_client

    from flows.deployment import deploy, prepare_server
    from flows.gpu_lease import gpu_limit_name

    def everything() -> list[Any]:
        with get_client(sync_client=True) as client:
            return [
                sorted(d.id for d in client.read_deployments()),
                sorted(p.id for p in client.read_work_pools()),
                client.request("POST", "/automations/count").json(),
                client.read_global_concurrency_limit_by_name(gpu_limit_name()).limit,
            ]

    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(gpu_limit_name(), 2)
    before = everything()
    prepare_server()
    deploy(server.workspace / "prefect.yaml", server.environment)
    assert everything() == before
    assert before[2:] == [1, 2]


def test_a_worker_stops_on_sigterm(server: LocalServer) -> None:
    """A worker started with SIGINT ignored could be stopped by SIGKILL only."""
    log = server.workspace / "logs" / "worker.log"
    before = log.stat().st_size
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        worker = start_worker(server)
    finally:
        signal.signal(signal.SIGINT, handler)
    # It says so when its handlers are set.
    until(lambda: b"started!" in log.read_bytes()[before:] or worker.poll() is not None, LIMIT_S)
    worker.terminate()
    assert worker.wait(LIMIT_S) == 0


@pytest.mark.long
def test_a_deployed_training_out_of_memory_is_started_again_with_a_smaller_plan(
    server: LocalServer, tmp_path: Path, sample_clips: Path, tiny_models: Path
) -> None:
    """The child's process fails as on a full card; its next process goes on with the planner's next plan."""
    from prefect import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
    from prefect.deployments import run_deployment

    from ltxcore.execution.execution import find_result
    from ltxcore.pipeline.base.contract import TRAIN

    bench = make_bench(tmp_path, sample_clips, tiny_models)
    bench.prepare()
    recipe = bench.root / "recipe.json"
    recipe.write_text(bench.recipe.model_dump_json())
    parameters = {"workspace": str(bench.root / "workspace"), "recipe_file": str(recipe)}
    started = run_deployment(
        "parent-of-a-training/parent-of-a-training", parameters=parameters, timeout=0, as_subflow=False
    )
    until(is_final(started.id), LIMIT_S)
    assert read(started.id).state.is_completed(), read(started.id).state.message
    with get_client(sync_client=True) as client:
        runs = [
            r for r in client.read_flow_runs() if r.parameters.get("workspace") == parameters["workspace"]
        ]
        (child,) = [r for r in runs if r.id != started.id]
        key = ArtifactFilter(key=ArtifactFilterKey(any_=["memory-train-lora"]))
        (shown,) = client.read_artifacts(artifact_filter=key)
    assert (child.run_count, child.state.name) == (2, "Completed")
    stamp = find_result(TRAIN, bench.ctx)[1]
    assert stamp is not None
    memory = stamp.outcome.facts["memory"]
    assert memory["strategy"].startswith("group_offload"), "all that a model of two blocks can give up"
    assert memory["setbacks"] == ["as the recipe says: CUDA out of memory. Tried to allocate 2.00 GiB"]
    assert memory["strategy"] in shown.data
    assert memory["setbacks"][0] in shown.data, "the step down is in the run's artifact"
