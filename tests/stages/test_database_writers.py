"""Many writers at once on the SQLite database of a workspace's server: no call is refused."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.environment import prefect_home
from flows.secret import authorization, find_secret
from flows.server import LocalServer

pytestmark = pytest.mark.e2e
WRITERS, RUNS = 8, 12


def test_writers_wait_for_one_another(
    tmp_path: Path, fresh_workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What flows and pages do, all at once: runs, states, artifacts and logs."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    # Prefect keeps "database is locked" out of its log otherwise.
    monkeypatch.setenv("PREFECT_SERVER_LOG_RETRYABLE_ERRORS", "true")
    answers: list[int] = []
    shutil.copytree(fresh_workspace, tmp_path, dirs_exist_ok=True)
    with LocalServer(tmp_path) as server:
        secret = find_secret(prefect_home(tmp_path))
        assert secret is not None
        headers = {"Authorization": authorization(secret)}
        writers = [
            threading.Thread(target=write, args=(server.url, headers, f"writer-{number}", answers))
            for number in range(WRITERS)
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert server.process is not None
        assert server.process.poll() is None
    assert [status for status in answers if status >= 400] == []
    assert len(answers) == WRITERS * (1 + RUNS * 7)
    assert "database is locked" not in server.log_path.read_text()


def write(url: str, headers: dict[str, str], name: str, answers: list[int]) -> None:
    with httpx.Client(base_url=url, headers=headers, timeout=300, trust_env=False) as client:
        token = client.get("/csrf-token", params={"client": name}).json()["token"]
        client.headers.update({"Prefect-Csrf-Client": name, "Prefect-Csrf-Token": token})

        def ask(path: str, body: Any, method: str = "POST") -> Any:
            answer = client.request(method, path, json=body)
            answers.append(answer.status_code)
            return answer.json() if answer.content else {}

        flow = ask("/flows/", {"name": "shared"})["id"]
        for _ in range(RUNS):
            run = ask("/flow_runs/", {"flow_id": flow, "state": {"type": "PENDING"}}).get("id")
            ask(f"/flow_runs/{run}/set_state", {"state": {"type": "RUNNING"}})
            made = {"key": name, "type": "progress", "data": 1.0, "flow_run_id": run}
            artifact = ask("/artifacts/", made).get("id")
            line = {"name": "x", "level": 20, "message": "m", "timestamp": "2026-11-29T00:00:00Z"}
            ask("/logs/", [{**line, "flow_run_id": run}] * 20)
            ask(f"/artifacts/{artifact}", {"data": 2.0}, "PATCH")
            ask("/flow_runs/filter", {"limit": 50})
            ask(f"/flow_runs/{run}/set_state", {"state": {"type": "COMPLETED"}})
