"""Stages as processes of an embedded run, on a real Prefect server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.child_process import ROOT
from flows.readiness import ServerError
from flows.server import LocalServer, find_server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, fresh_workspace: Path) -> Iterator[LocalServer]:
    workspace = tmp_path_factory.mktemp("served") / "workspace"
    shutil.copytree(fresh_workspace, workspace)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        with LocalServer(workspace) as running:
            yield running


def trace(root: Path) -> list[tuple[str, int]]:
    lines = (root / "trace").read_text().splitlines()
    return [(line.split()[0], int(line.split()[1])) for line in lines]


def until(condition: object, limit_s: float = 600) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.1)


def states(name: str) -> list[str]:
    from prefect import get_client
    from prefect.client.schemas.filters import FlowFilter

    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_filter=FlowFilter.model_validate({"name": {"any_": [name]}}))
        return [run.state.name for run in sorted(runs, key=lambda r: r.created)]


def last_run(name: str):
    from prefect import get_client
    from prefect.client.schemas.filters import FlowFilter

    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_filter=FlowFilter.model_validate({"name": {"any_": [name]}}))
        return max(runs, key=lambda r: r.created)


def slots_taken() -> int:
    from prefect import get_client

    from flows.gpu_lease import gpu_limit_name

    with get_client(sync_client=True) as client:
        return client.read_global_concurrency_limit_by_name(gpu_limit_name()).active_slots


def test_each_stage_has_its_own_process_and_run(server: LocalServer, tmp_path: Path) -> None:
    from tests.stages.fake_flows import two_stages

    two_stages(workspace=str(tmp_path))
    seen = dict(trace(tmp_path))
    assert list(seen) == ["parent", "first", "second"]
    assert len(set(seen.values())) == 3
    assert seen["parent"] == os.getpid()
    assert states("first-stage") == ["Completed"]
    child = last_run("second-stage")
    assert child.parent_task_run_id is not None
    assert child.parameters["workspace"] == str(tmp_path)
    assert list((tmp_path / "logs").glob("second-stage-*.log"))


def test_a_failed_stage_tells_why(server: LocalServer, tmp_path: Path) -> None:
    from flows.run_stage import StageFailed
    from tests.stages.fake_flows import two_stages

    with pytest.raises(StageFailed, match="second-stage failed: ValueError: the second stage is broken"):
        two_stages(workspace=str(tmp_path), mode="raise")
    assert states("second-stage")[-1] == "Failed"


def test_a_killed_stage_is_marked_crashed_and_a_retry_has_a_new_process(
    server: LocalServer, tmp_path: Path
) -> None:
    """It holds the GPU when it is killed: its slot is free at once, not when its lease has ended."""
    from prefect import get_client

    from flows.gpu_lease import gpu_limit_name
    from flows.run_stage import StageFailed
    from tests.stages.fake_flows import two_stages

    before = len(states("second-stage"))
    with pytest.raises(StageFailed, match="second-stage crashed: its process was killed by SIGKILL"):
        two_stages(workspace=str(tmp_path), mode="kill-with-lease", retries=1)
    with get_client(sync_client=True) as client:
        assert client.read_global_concurrency_limit_by_name(gpu_limit_name()).active_slots == 0
    tries = [pid for name, pid in trace(tmp_path) if name == "second"]
    assert len(set(tries)) == 2
    # Both tries are one flow run, and the first stage was not run again.
    assert states("second-stage")[before:] == ["Crashed"]
    assert last_run("second-stage").run_count == 2
    assert [name for name, _ in trace(tmp_path)].count("first") == 1


def test_a_stage_out_of_memory_is_started_again_in_new_processes(
    server: LocalServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from tests.stages.fake_flows import two_stages

    two_stages(workspace=str(tmp_path), mode="out-of-memory")
    tries = [pid for name, pid in trace(tmp_path) if name == "second"]
    assert len(set(tries)) == 3
    assert states("second-stage")[-1] == "Completed"
    assert last_run("second-stage").run_count == 3
    messages = [record.message for record in caplog.records if "out of memory with plan" in record.message]
    assert len(messages) == 2, "each step down is in the parent's log"
    assert (
        "out of memory with plan 1 (it held too much); it is started again with the next plan" in messages[1]
    )


def run_parent(server: LocalServer, workspace: Path, mode: str) -> subprocess.Popen[bytes]:
    code = f"from tests.stages.fake_flows import two_stages; two_stages({str(workspace)!r}, {mode!r})"
    environment = {**os.environ, **server.environment, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)


def test_an_interrupted_parent_lets_its_stage_write_a_checkpoint(server: LocalServer, tmp_path: Path) -> None:
    parent = run_parent(server, tmp_path, "train")
    until((tmp_path / "at-work").exists)
    parent.send_signal(signal.SIGINT)
    parent.wait(600)
    assert (tmp_path / "checkpoint").read_text() == "whole"
    assert states("second-stage")[-1] == "Crashed"
    assert states("two-stages")[-1] == "Crashed"


def test_a_stage_dies_with_a_killed_parent(server: LocalServer, tmp_path: Path) -> None:
    parent = run_parent(server, tmp_path, "sleep")
    until((tmp_path / "at-work").exists)
    stage = dict(trace(tmp_path))["second"]
    parent.kill()
    parent.wait()
    until(lambda: not alive(stage))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_second_user_shares_the_server(server: LocalServer) -> None:
    found = find_server(server.workspace)
    assert found is not None
    assert found.url == server.url
    with LocalServer(server.workspace) as second:
        assert second.url == server.url
        assert not second.started_here
    with (
        pytest.raises(ServerError, match="is using the Prefect database"),
        LocalServer(server.workspace, own=True),
    ):
        pass


def test_leftovers_of_a_killed_run_are_put_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole house is killed while a stage holds the GPU; the next run does not wait for its lease."""
    from tests.stages.fake_flows import two_stages

    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    code = (
        "import os, signal\n"
        "from flows.server import LocalServer\n"
        f"with LocalServer({str(tmp_path)!r}):\n"
        "    from prefect import flow\n"
        "    from flows.gpu_lease import gpu_lease\n"
        "    @flow(name='second-stage')\n"
        "    def holder():\n"
        "        with gpu_lease():\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "    holder()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with LocalServer(tmp_path):
        assert states("second-stage") == ["Crashed"]
        assert slots_taken() == 0
        two_stages(workspace=str(tmp_path), mode="lease")
    assert [name for name, _ in trace(tmp_path)][-1] == "leased"
