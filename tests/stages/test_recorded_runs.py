"""Runs without a Prefect server, and what the server that is started later knows of them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.at_once import History
from flows.child_process import ROOT, python_path
from flows.environment import prefect_home
from flows.readiness import ServerError
from flows.recorder import journal
from flows.recorder.records import now
from flows.secret import authorization, find_secret
from flows.server import LocalServer, find_server
from tests.e2e.serving import until

pytestmark = pytest.mark.e2e


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


def start(workspace: Path, *arguments: str) -> subprocess.Popen[str]:
    # As `ltx2 run` does: what Prefect reads when it is imported is the workspace's already.
    code = (
        "import sys\n"
        "from flows.server import LocalServer\n"
        "with LocalServer(sys.argv[1], records=True):\n"
        "    from tests.stages.recorded_flow import main\n"
        "    main(*sys.argv[1:])\n"
    )
    environment = {**os.environ, "PYTHONPATH": python_path(), "NO_PROXY": "127.0.0.1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, str(workspace), *arguments],
        env=environment,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def record(workspace: Path, *arguments: str) -> str:
    """Run without a server; what the run printed."""
    process = start(workspace, *arguments)
    told, _ = process.communicate()
    assert not (prefect_home(workspace) / "prefect.db").exists(), "no server was there"
    return told


def ask(path: str, **asked: Any) -> Any:
    from prefect import get_client

    with get_client(sync_client=True) as client:
        return client.request("POST", path, json=asked).raise_for_status().json()


def states_of(run: str) -> list[str]:
    from prefect import get_client

    with get_client(sync_client=True) as client:
        return [state.name for state in client.read_flow_run_states(run)]


def runs() -> dict[str, Any]:
    flows = {flow["id"]: flow["name"] for flow in ask("/flows/filter")}
    return {flows[run["flow_id"]]: run for run in ask("/flow_runs/filter")}


def test_the_next_server_knows_all_of_a_recorded_run(tmp_path: Path) -> None:
    began = datetime.now(UTC)
    told = record(tmp_path, "telling")
    assert "Completed" in told, told
    over = datetime.now(UTC)
    for _ in range(2):  # The second server finds nothing to take up, and what the first one had.
        with LocalServer(tmp_path):
            assert journal.waiting(prefect_home(tmp_path)) == []
            (run,) = ask("/flow_runs/filter")
            assert run["state_name"] == "Completed"
            assert run["run_count"] == 1
            assert began <= datetime.fromisoformat(run["start_time"])
            assert datetime.fromisoformat(run["start_time"]) < datetime.fromisoformat(run["end_time"]) <= over
            assert 0 < run["total_run_time"] < (over - began).total_seconds()
            assert states_of(run["id"]) == ["Pending", "Running", "Completed"]
            (task,) = ask("/task_runs/filter")
            assert (task["name"].partition("-")[0], task["state_name"]) == ("tell", "Completed")
            assert began <= datetime.fromisoformat(task["start_time"]) <= over
            artifacts = {artifact["key"]: artifact for artifact in ask("/artifacts/filter")}
            assert artifacts["told"]["data"] == "# told"
            assert (artifacts["bar"]["data"], artifacts["bar"]["description"]) == (90.0, "later")
            for artifact in artifacts.values():
                assert artifact["flow_run_id"] == run["id"]
                assert artifact["task_run_id"] == task["id"]
                assert began <= datetime.fromisoformat(artifact["created"]) <= over
            newest = {latest["key"] for latest in ask("/artifacts/latest/filter")}
            assert newest == {"told", "bar"}
            lines = [line["message"] for line in ask("/logs/filter")]
            assert lines.count("a word of the library") == 1


@pytest.mark.long
def test_stages_are_children_of_their_run(tmp_path: Path) -> None:
    record(tmp_path, "stages")
    assert len({line.split()[1] for line in (tmp_path / "trace").read_text().splitlines()}) == 3
    with LocalServer(tmp_path):
        known = runs()
        assert {name: run["state_name"] for name, run in known.items()} == dict.fromkeys(
            ("two-stages", "first-stage", "second-stage"), "Completed"
        )
        placeholders = {task["id"]: task for task in ask("/task_runs/filter")}
        for name in ("first-stage", "second-stage"):
            task = placeholders[known[name]["parent_task_run_id"]]
            assert task["flow_run_id"] == known["two-stages"]["id"]
            assert task["state_name"] == "Completed"
            assert task["state"]["state_details"]["child_flow_run_id"] == known[name]["id"]
            assert task["start_time"] == known[name]["start_time"]


@pytest.mark.long
def test_a_killed_stage_gives_the_gpu_back_and_is_started_again(tmp_path: Path) -> None:
    told = record(tmp_path, "stages", "kill-with-lease", "1")
    assert "second-stage crashed: its process was killed by SIGKILL" in told
    tries = [line for line in (tmp_path / "trace").read_text().splitlines() if line.startswith("second")]
    assert len(tries) == 2
    with LocalServer(tmp_path):
        known = runs()
        assert known["second-stage"]["state_name"] == "Crashed"
        assert known["second-stage"]["run_count"] == 2
        course = ["Pending", "Running", "Crashed", "AwaitingRetry", "Running", "Crashed"]
        assert states_of(known["second-stage"]["id"]) == course
        assert known["two-stages"]["state_name"] == "Failed"
        assert known["first-stage"]["run_count"] == 1


@pytest.mark.long
def test_what_a_killed_house_recorded_is_known_as_crashed(tmp_path: Path) -> None:
    house = start(tmp_path, "stages", "sleep")
    trace = tmp_path / "trace"
    until(lambda: house.poll() is not None or (trace.exists() and "second" in trace.read_text()), 300)
    house.send_signal(signal.SIGKILL)
    house.communicate()
    with LocalServer(tmp_path):
        states = {name: run["state_name"] for name, run in runs().items()}
    assert states == {"first-stage": "Completed", "second-stage": "Crashed", "two-stages": "Crashed"}


@pytest.mark.long
def test_a_journal_is_taken_up_once_and_as_far_as_it_is_whole(tmp_path: Path) -> None:
    home = prefect_home(tmp_path)
    record(tmp_path, "telling")
    (kept,) = journal.waiting(home)
    # As if the server had been killed between the database and the file.
    twice = tmp_path / "twice"
    shutil.copy2(kept, twice)
    torn = kept.with_name("0-torn.jsonl")
    whole = kept.read_bytes().splitlines(keepends=True)
    torn.write_bytes(whole[0].replace(b"telling", b"another") + b"\0" * 50 + b"\n" + whole[0][:40])
    senseless = kept.with_name("1-senseless.jsonl")
    senseless.write_text('{"what": "state", "of": "nobody", "told": {}}\n')
    with LocalServer(tmp_path):
        assert list(runs()) == ["telling"]
        assert {flow["name"] for flow in ask("/flows/filter")} == {"telling", "another"}
    assert senseless.with_suffix(".damaged").exists()
    shutil.copy2(twice, kept)
    with LocalServer(tmp_path):
        assert len(ask("/flow_runs/filter")) == 1
        assert len(ask("/task_runs/filter")) == 1
        assert len(ask("/artifacts/filter")) == 2
    assert journal.waiting(home) == []


@pytest.mark.long
def test_a_server_that_runs_takes_up_what_has_ended(tmp_path: Path) -> None:
    with LocalServer(tmp_path):
        named = ("r on clips, 2026-11-29 23:40", ["model:tiny"])
        history = History(journal.Journal(prefect_home(tmp_path)), now(), *named)
        history.write({"recipe_file": "r"}, ["all done"], [], "# all done")
        until(lambda: ask("/flow_runs/filter"), 300)
        run = runs()["train-ltx2"]
        assert (run["state_name"], run["parameters"]) == ("Completed", {"recipe_file": "r"})
        assert (run["name"], run["tags"]) == named
        assert [line["message"] for line in ask("/logs/filter")] == ["all done"]
        (page,) = ask("/artifacts/filter")
        assert (page["key"], page["data"]) == ("run", "# all done")


@pytest.mark.long
def test_who_set_an_automation_hears_of_a_run_from_a_server(tmp_path: Path) -> None:
    with LocalServer(tmp_path):
        trigger = {"type": "event", "expect": ["prefect.flow-run.Completed"], "posture": "Reactive"}
        asked = {
            "name": "message",
            "trigger": {**trigger, "threshold": 1, "within": 0},
            "actions": [{"type": "do-nothing"}],
        }
        ask("/automations/", **asked)
    with LocalServer(tmp_path, records=True) as server:
        assert server.started_here
        assert find_server(tmp_path) is not None, "it is no recorder"


def test_a_recorder_is_no_server_for_those_who_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalServer(tmp_path, records=True) as recorder:
        monkeypatch.delenv("PREFECT_API_URL")
        assert find_server(tmp_path) is None
        with LocalServer(tmp_path, records=True) as second:
            assert second.url == recorder.url
            assert not second.started_here
        monkeypatch.delenv("PREFECT_API_URL", raising=False)
        with pytest.raises(ServerError, match="is using the Prefect database"), LocalServer(tmp_path):
            pass
        assert httpx.get(f"{recorder.url}/health").status_code == 200
        assert httpx.get(f"{recorder.url}/flow_runs/1").status_code == 401
        secret = {"Authorization": authorization(str(find_secret(prefect_home(tmp_path))))}
        assert httpx.get(f"{recorder.url}/flow_runs/1", headers=secret).status_code == 404
        assert httpx.get(f"{recorder.url}/deployments/1", headers=secret).status_code == 501
