"""What `serve` refuses before it starts anything."""

import os
import socket
from pathlib import Path

import pytest

from flows.guard.hosts import free_port
from flows.readiness import ServerError
from flows.serve import serve


def test_a_taken_port_is_named_with_its_holder(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=rf"Port {port} .* \(pid {os.getpid()}: .*--mlflow-port"):
            serve(tmp_path, port=free_port(), mlflow_port=port, files_port=free_port())
    assert not (tmp_path / "logs" / "server.log").exists()


@pytest.mark.parametrize("host", ["203.0.113.7", "no such name", "2001:db8::7"])
def test_a_host_that_is_no_address_of_this_machine_is_reported(host: str, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=rf"--host {host} is not an address of this machine .*0\.0\.0\.0"):
        serve(tmp_path, host=host, port=4200, mlflow_port=5000, files_port=4280)
    assert not (tmp_path / "logs").exists()


def test_a_workspace_is_served_once(tmp_path: Path) -> None:
    from flows.serve import _only_one

    with (
        _only_one(tmp_path),
        pytest.raises(ServerError, match=f"served already, by the process {os.getpid()}"),
    ):
        serve(tmp_path, port=free_port(), mlflow_port=free_port(), files_port=free_port())
