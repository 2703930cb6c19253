import json
import os
import socket
from pathlib import Path

import pytest

from flows.guard.hosts import free_port
from flows.readiness import ServerError
from flows.server import LocalServer, find_server


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


def test_a_record_of_a_dead_server_is_not_believed(tmp_path: Path) -> None:
    assert find_server(tmp_path) is None
    (tmp_path / "prefect").mkdir()
    record = tmp_path / "prefect" / "server.json"
    record.write_text("{")
    assert find_server(tmp_path) is None
    record.write_text(json.dumps({"url": f"http://127.0.0.1:{free_port()}/api", "pid": os.getpid()}))
    assert find_server(tmp_path) is None


@pytest.mark.parametrize(
    "left", [b"", b'{"url": "http://127.0.0.1:1/api", "p', b"text", b"[]", b"3", b"null", b"\xff\x00",
             b'{"url": 3, "pid": 1}', b'{"url": "http://x/api", "pid": "text"}', b'{"url": "x", "pid": -1}']
)  # fmt: skip
def test_what_a_crash_leaves_of_the_record_is_ignored_and_said(
    left: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "prefect").mkdir()
    (tmp_path / "prefect" / "server.json").write_bytes(left)
    assert find_server(tmp_path) is None
    assert "server.json is damaged" in caplog.text


def test_a_process_of_another_user_is_not_our_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prefect").mkdir()
    record = tmp_path / "prefect" / "server.json"
    record.write_text(json.dumps({"url": f"http://127.0.0.1:{free_port()}/api", "pid": os.getpid()}))

    def refuse(pid: int, number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.kill", refuse)
    assert find_server(tmp_path) is None


def test_a_server_that_the_user_names_must_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{free_port()}/api"
    monkeypatch.setenv("PREFECT_API_URL", url)
    with pytest.raises(ServerError, match=f"PREFECT_API_URL is {url}, but"), LocalServer(tmp_path):
        pass


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=r"(?si)exited with status \d.*already in use"):
            LocalServer(tmp_path, port=port).__enter__()
    assert "PREFECT_HOME" not in os.environ or os.environ["PREFECT_HOME"] != str(tmp_path / "prefect")
    assert not (tmp_path / "prefect" / "server.json").exists()
