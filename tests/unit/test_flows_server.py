import json
import os
import socket
from pathlib import Path

import pytest

from flows.server import LocalServer, ServerError, find_server, free_port


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
        with pytest.raises(ServerError, match=r"(?s)exited with status 1.*already in use"):
            LocalServer(tmp_path, port=port).__enter__()
    assert "PREFECT_HOME" not in os.environ or os.environ["PREFECT_HOME"] != str(tmp_path / "prefect")
    assert not (tmp_path / "prefect" / "server.json").exists()
