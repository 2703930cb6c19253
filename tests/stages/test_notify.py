"""`ltx2 notify` by its effect: a run ends, and a receiver on this machine has the message."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from flows.child_process import ROOT
from flows.server import LocalServer
from tests.e2e.serving import api, until

pytestmark = pytest.mark.e2e
SECRET_PATH = "/hooks/3f9c1d"
LIMIT_S = 300


class Receiver(ThreadingHTTPServer):
    """Takes posts and keeps their JSON."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.taken: list[dict[str, Any]] = []
        self.status = 200

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}{SECRET_PATH}"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == SECRET_PATH and self.server.status == 200:
            self.server.taken.append(json.loads(body))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *values: object) -> None:
        """Into no log."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def notify(workspace: Path, *options: str, address: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LTX2_NOTIFY_URL": address, "COLUMNS": "200"}
    command = [sys.executable, "-m", "flows.cli", "notify", "--workspace", str(workspace), *options]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def end(workspace: Path, flow: str, state: dict[str, str]) -> str:
    """A run of a flow that ends so; its name."""
    with api(workspace) as client:
        asked = {"flow_id": str(client.create_flow_from_name(flow)), "state": {"type": "RUNNING"}}
        run = client.request("POST", "/flow_runs/", json=asked).json()
        path = {"id": run["id"]}
        client.request(
            "POST", "/flow_runs/{id}/set_state", path_params=path, json={"state": state}
        ).raise_for_status()
    return str(run["name"])


def test_messages_come_when_a_training_is_done_and_when_it_fails(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with LocalServer(tmp_path, own=True):
        receiver.status = 404
        refused = notify(tmp_path, address=receiver.address)
        assert refused.returncode == 1
        assert "404" in refused.stderr
        assert SECRET_PATH not in refused.stdout + refused.stderr, "the address is the secret"
        receiver.status = 200

        for _ in range(2):
            # Once more changes nothing: each message comes once.
            done = notify(tmp_path, address=receiver.address)
            assert done.returncode == 0, done.stderr
            assert SECRET_PATH not in done.stdout + done.stderr
        assert [found["title"] for found in receiver.taken] == ["ltx2 notify: a test message"] * 2
        receiver.taken.clear()

        good = end(tmp_path, "train-ltx2", {"type": "COMPLETED", "message": "2 renderings"})
        bad = end(tmp_path, "train-ltx2", {"type": "FAILED", "message": "no clip <can> be used"})
        end(tmp_path, "encode-latents", {"type": "COMPLETED"})
        until(lambda: len(receiver.taken) >= 2, LIMIT_S)
        last = end(tmp_path, "train-ltx2", {"type": "CRASHED", "message": "killed"})
        until(lambda: any(last in found["title"] for found in receiver.taken), LIMIT_S)
        texts = {found["title"]: found["text"] for found in receiver.taken}
        assert len(receiver.taken) == 3, receiver.taken
        assert "2 renderings" in texts[f"train-ltx2 completed: {good}"]
        assert "no clip <can> be used" in texts[f"train-ltx2 failed: {bad}"]
        assert "killed" in texts[f"train-ltx2 crashed: {last}"]
        assert all("/runs/flow-run/" in text for text in texts.values())

        kept = str(sorted((tmp_path / "prefect").glob("prefect.db*")))
        assert kept
        for file in (tmp_path / "prefect").glob("prefect.db*"):
            assert SECRET_PATH.encode() not in file.read_bytes(), "the block is encrypted"

        assert "ltx2-notify-done" in notify(tmp_path, "--off").stdout
        unknown = notify(tmp_path, "--block", "slack-webhook/team")
        assert unknown.returncode == 1
        assert "there is no block slack-webhook/team" in unknown.stderr
        assert notify(tmp_path, "--to", "pigeon").returncode == 2


def test_without_a_server_it_says_what_to_start(tmp_path: Path) -> None:
    done = notify(tmp_path, address="http://127.0.0.1:9")
    assert done.returncode == 1
    assert "ltx2 serve" in done.stderr
