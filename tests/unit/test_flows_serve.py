"""What `serve` refuses before it starts anything."""

import os
import socket
from pathlib import Path

import pytest

from flows.serve import serve
from flows.server import ServerError, free_port


def test_a_taken_port_is_named_with_its_holder(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=rf"Port {port} .* \(pid {os.getpid()}: .*--mlflow-port"):
            serve(tmp_path, port=free_port(), mlflow_port=port, files_port=free_port())
    assert not (tmp_path / "logs" / "server.log").exists()


def test_a_workspace_is_served_once(tmp_path: Path) -> None:
    from flows.serve import _only_one

    with (
        _only_one(tmp_path),
        pytest.raises(ServerError, match=f"served already, by the process {os.getpid()}"),
    ):
        serve(tmp_path, port=free_port(), mlflow_port=free_port(), files_port=free_port())
