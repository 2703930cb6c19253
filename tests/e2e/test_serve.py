"""`ltx2 serve`: everything comes up, and nothing is left, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows.leash import ROOT
from flows.server import answers, find_server, free_port

pytestmark = pytest.mark.e2e


def start(workspace: Path) -> tuple[subprocess.Popen[bytes], int]:
    mlflow_port = free_port()
    code = (
        "from flows.serve import serve\n"
        f"serve({str(workspace)!r}, port={free_port()}, mlflow_port={mlflow_port},"
        " recipe={'training': {'max_train_steps': 7}}, datasets='/data/mine.yaml')\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"} | {"PYTHONPATH": str(ROOT)}
    log = workspace.with_suffix(".log").open("wb")
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=log, stderr=log)
    log.close()
    until(lambda: b"Ctrl-C" in workspace.with_suffix(".log").read_bytes() or process.poll() is not None, 120)
    assert process.poll() is None, workspace.with_suffix(".log").read_text()
    return process, mlflow_port


def until(condition: object, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"it did not come in {limit_s} s"
        time.sleep(0.2)


def test_serve_comes_up_twice_and_leaves_nothing_behind(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    supervisor, mlflow_port = start(workspace)
    server = find_server(workspace)
    assert server is not None
    assert answers(server.ui)
    assert answers(f"http://127.0.0.1:{mlflow_port}/health")
    children = psutil.Process(supervisor.pid).children(recursive=True)
    commands = [" ".join(child.cmdline()) for child in children]
    for part in ("server start", "mlflow server", "--pool cpu", "--pool gpu"):
        assert sum(part in command for command in commands) == 1, part
    switch_the_night_on(server.url)

    begin = time.monotonic()
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(30) == 0
    assert time.monotonic() - begin < 12
    assert not [child for child in children if child.is_running()]

    supervisor, _ = start(workspace)
    server = find_server(workspace)
    assert server is not None
    found = deployments(server.url)
    assert len(found) == 7
    parent = found["train-ltx2"]
    assert parent.parameters["recipe"] == {"training": {"max_train_steps": 7}}
    assert parent.parameters["datasets"] == "/data/mine.yaml"
    assert parent.parameters["workspace"] == str(workspace)
    assert found["train-lora"].parameters.keys() == {"workspace", "recipe"}
    assert [schedule.active for schedule in parent.schedules] == [True]

    children = psutil.Process(supervisor.pid).children(recursive=True)
    supervisor.kill()
    supervisor.wait()
    until(lambda: not [child for child in children if child.is_running()], 30)


def deployments(url: str) -> dict:
    from prefect.client.orchestration import SyncPrefectClient

    with SyncPrefectClient(url) as client:
        return {deployment.name: deployment for deployment in client.read_deployments()}


def switch_the_night_on(url: str) -> None:
    from prefect.client.orchestration import SyncPrefectClient

    with SyncPrefectClient(url) as client:
        parent = client.read_deployment_by_name("train-ltx2/train-ltx2")
        (night,) = parent.schedules
        assert not night.active
        client.update_deployment_schedule(parent.id, night.id, active=True)
