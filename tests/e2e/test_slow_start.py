"""A Prefect server that starts slowly is waited for, and it listens where it was asked to."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from flows import readiness
from flows.readiness import LIMIT_VARIABLE
from flows.server import LocalServer, find_server, healthy

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

# A start that takes ten times the limit is given up, too.
LIMIT_S, SLOWED_S = 11, 12
SLOW = f"""
import sys, time
if "flows.guard.prefect_server" in sys.orig_argv:
    for second in range({SLOWED_S}):
        print("a slow disk,", second, "s", flush=True)
        time.sleep(1)
"""
OTHER_LOOPBACK = "127.0.0.2"


@pytest.fixture(scope="module")
def messages() -> list[str]:
    return []


@pytest.fixture(scope="module")
def slowed(
    tmp_path_factory: pytest.TempPathFactory, fresh_workspace: Path, messages: list[str]
) -> Iterator[LocalServer]:
    root = tmp_path_factory.mktemp("slow")
    shutil.copytree(fresh_workspace, root / "workspace")
    (root / "sitecustomize.py").write_text(SLOW)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        patch.setenv("PYTHONPATH", str(root))
        patch.setenv(LIMIT_VARIABLE, str(LIMIT_S))
        patch.setattr(readiness, "TELL_AFTER_S", 3)
        with LocalServer(root / "workspace", host=OTHER_LOOPBACK, tell=messages.append) as server:
            yield server


def test_a_slow_start_is_waited_for_and_said(slowed: LocalServer, messages: list[str]) -> None:
    assert healthy(slowed.url)
    assert f"a slow disk, {SLOWED_S - 1} s" in slowed.log_path.read_text()
    assert any("waiting for the Prefect server" in line and str(slowed.log_path) in line for line in messages)


def test_the_server_listens_where_it_was_asked_to_and_nowhere_else(slowed: LocalServer) -> None:
    address = urlsplit(slowed.url)
    assert address.hostname == OTHER_LOOPBACK
    found = find_server(slowed.workspace)
    assert found is not None
    assert found.url == slowed.url
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", address.port or 0), timeout=5)
