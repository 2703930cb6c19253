"""`ltx2 serve`: everything comes up, and nothing is left, however it ends."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from flows.deployment import PREFECT_FILE
from flows.server import answers, find_server
from tests.e2e.serving import api, start_serving, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


def test_serve_comes_up_twice_and_leaves_nothing_behind(tmp_path: Path) -> None:
    workspace, datasets, recipe = tmp_path / "workspace", tmp_path / "mine.yaml", tmp_path / "recipe.yaml"
    entries = [
        {"id": "clips", "dataset_type": "video", "instance_data_dir": "."},
        {"id": "text", "dataset_type": "text_embeds"},
    ]
    datasets.write_text(yaml.safe_dump(entries))
    recipe.write_text("training: {max_train_steps: 7}")

    supervisor, mlflow_port = start_serving(workspace, datasets, recipe)
    server = find_server(workspace)
    assert server is not None
    assert answers(server.ui)
    assert answers(f"http://127.0.0.1:{mlflow_port}/health")
    children = psutil.Process(supervisor.pid).children(recursive=True)
    commands = [" ".join(child.cmdline()) for child in children]
    for part in (
        "guard.prefect_server",
        "guard.mlflow_server",
        "flows.file_server",
        "--pool cpu",
        "--pool gpu",
    ):
        assert sum(part in command for command in commands) == 1, part
    switch_the_night_on(workspace)

    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(300) == 0
    assert not [child for child in children if child.is_running()]

    supervisor, _ = start_serving(workspace, datasets, recipe)
    found = deployments(workspace)
    assert set(found) == {one["name"] for one in yaml.safe_load(PREFECT_FILE.read_text())["deployments"]}
    parent = found["train-ltx2"]
    assert parent.parameters["recipe_file"] == str(recipe)
    assert parent.parameters["datasets"] == str(datasets)
    assert parent.parameters["workspace"] == str(workspace)
    assert found["train-lora"].parameters == {"workspace": str(workspace), "recipe_file": str(recipe)}
    assert [schedule.active for schedule in parent.schedules] == [True]
    a_killed_worker_comes_back(supervisor, workspace)

    children = psutil.Process(supervisor.pid).children(recursive=True)
    supervisor.kill()
    supervisor.wait()
    until(lambda: not [child for child in children if child.is_running()], 300)


def a_killed_worker_comes_back(supervisor: subprocess.Popen[str], workspace: Path) -> None:
    """The night's run would wait for ever otherwise."""

    def worker() -> psutil.Process | None:
        for child in psutil.Process(supervisor.pid).children():
            # The killed one is there until `ltx2 serve` has seen it.
            with contextlib.suppress(psutil.NoSuchProcess):
                if "gpu" in child.cmdline():
                    return child
        return None

    first = worker()
    assert first is not None
    killed_at = datetime.now(UTC)
    first.kill()

    def back() -> bool:
        with api(workspace) as client:
            found = client.read_workers_for_work_pool("gpu") if worker() not in (None, first) else []
        return any(w.last_heartbeat_time is not None and w.last_heartbeat_time > killed_at for w in found)

    until(back, 300)


def deployments(workspace: Path) -> dict[str, Any]:
    with api(workspace) as client:
        return {deployment.name: deployment for deployment in client.read_deployments()}


def switch_the_night_on(workspace: Path) -> None:
    with api(workspace) as client:
        parent = client.read_deployment_by_name("train-ltx2/train-ltx2")
        (night,) = parent.schedules
        assert not night.active
        client.update_deployment_schedule(parent.id, night.id, active=True)
