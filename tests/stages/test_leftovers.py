"""What a power cut leaves in a workspace is put right when its server starts again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.child_process import ROOT, python_path
from flows.environment import prefect_environment
from flows.server import LocalServer
from tests.e2e.serving import until

pytestmark = [pytest.mark.e2e, pytest.mark.long]


def test_runs_and_files_of_a_power_cut_are_put_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    leases = tmp_path / "prefect" / "concurrency_leases"
    with LocalServer(tmp_path):
        from flows.deployment import prepare_server
        from flows.gpu_lease import gpu_limit_name

        prepare_server()
        runs = {name: make_run(name, pool) for name, pool in LEFT.items()}
        for name, place in (("other workspace", tmp_path.parent), ("moved", tmp_path / "gone")):
            runs[name] = make_run(name, None, {"workspace": str(place)})
        with client() as api:
            own = {"name": f"cpu-{socket.gethostname()}"}
            api.request("POST", "/work_pools/cpu/workers/heartbeat", json=own).raise_for_status()
            api.request(
                "POST", "/work_pools/gpu/workers/heartbeat", json={"name": "far away"}
            ).raise_for_status()
            limit = api.read_global_concurrency_limit_by_name(gpu_limit_name())
            api.request(
                "POST", "/v2/concurrency_limits/increment", json={"names": [limit.name], "slots": 1}
            ).raise_for_status()
        code = "import time; time.sleep(600)"
        alive = {**os.environ, "PREFECT__FLOW_RUN_ID": runs["alive"]}
        process = subprocess.Popen([sys.executable, "-c", code], env=alive)
    leases.mkdir(exist_ok=True)
    for text in ("", '{"id": "', "[]", "3"):
        (leases / f"{uuid.uuid4()}.json").write_text(text)
    (leases / "expirations.json").write_text('{"')
    (tmp_path / "prefect" / "server.json").write_text("[]")
    try:
        with LocalServer(tmp_path), client() as api:
            found = {name: api.read_flow_run(run).state.name for name, run in runs.items()}
            assert found == {
                "embedded": "Crashed",
                "deployed": "Crashed",
                "claimed": "Crashed",
                "alive": "Running",
                "elsewhere": "Running",
                "other workspace": "Running",
                "moved": "Crashed",
            }
            assert not list(leases.glob("*-*.json"))
            assert api.read_global_concurrency_limit_by_name(limit.name).active_slots == 0
    finally:
        process.kill()
        process.wait()


LEFT = {"embedded": None, "deployed": "cpu", "claimed": "cpu", "alive": "cpu", "elsewhere": "gpu"}


def client() -> Any:
    from prefect import get_client

    return get_client(sync_client=True)


def make_run(name: str, pool: str | None, parameters: dict[str, str] | None = None) -> str:
    """A run as a power cut leaves it: the server believes that it goes on."""
    state = {"type": "PENDING"} if name == "claimed" else {"type": "RUNNING"}
    with client() as api:
        flow = api.create_flow_from_name(name)
        deployment = None
        if pool is not None:
            deployment = str(api.create_deployment(flow, name, work_pool_name=pool))
        asked = {"flow_id": str(flow), "name": name, "deployment_id": deployment, "state": state}
        asked["parameters"] = parameters or {}
        if deployment is None:
            answer = api.request("POST", "/flow_runs/", json=asked)
        else:
            path = {"id": deployment}
            answer = api.request(
                "POST", "/deployments/{id}/create_flow_run", path_params=path, json={"state": SOON}
            )
        answer.raise_for_status()
        run = str(answer.json()["id"])
        set_state = {"state": state, "force": True}
        api.request(
            "POST", "/flow_runs/{id}/set_state", path_params={"id": run}, json=set_state
        ).raise_for_status()
    return run


SOON = {"type": "SCHEDULED"}


FLOWS = """
import os, sys
from flows.orphan import end_with_parent
end_with_parent(os.environ["PREFECT_API_URL"])
from tests.stages.fake_flows import two_stages
two_stages(sys.argv[1], "train")
"""
HOUSE = """
import os, sys
from flows.child_process import start_child
from flows.server import LocalServer
workspace, flows = sys.argv[1:]
with LocalServer(workspace) as server:
    environment = {**os.environ, **server.environment}
    start_child([sys.executable, "-c", flows, workspace], environment).wait()
"""


def test_nothing_of_a_killed_house_asks_a_dead_server(tmp_path: Path) -> None:
    """The one who runs server and flows is killed with -9: parent and stage are gone within seconds."""
    environment = {**os.environ, **prefect_environment(tmp_path), "PYTHONPATH": python_path()}
    environment.pop("PREFECT_API_URL", None)
    house = subprocess.Popen([sys.executable, "-c", HOUSE, str(tmp_path), FLOWS], env=environment, cwd=ROOT)
    trace = tmp_path / "trace"
    until(lambda: house.poll() is not None or (trace.exists() and "second" in trace.read_text()), 300)
    assert house.poll() is None
    children = psutil.Process(house.pid).children(recursive=True)
    assert len(children) >= 3
    time.sleep(1)
    house.send_signal(signal.SIGKILL)
    house.wait()
    until(lambda: not [child for child in children if is_alive(child)], 30)
    assert (tmp_path / "checkpoint").read_text() == "whole"


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
