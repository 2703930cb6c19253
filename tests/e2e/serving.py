"""`ltx2 serve` as a process, for tests."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from flows.child_process import ROOT, bound_to_this_process
from flows.environment import prefect_home
from flows.guard.hosts import free_port
from flows.secret import find_secret
from flows.server import find_server
from tests.e2e.readme import readme, recipe_of

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

TINY = ROOT / "deploy/recipes/tiny.yaml"


def until(condition: Callable[[], object], limit_s: float) -> float:
    """Wait until the condition holds; returns the seconds it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < limit_s, f"it did not come in {limit_s} s"
        # Most conditions ask the server, which shares the processors with what is waited for.
        time.sleep(0.5)
    return time.monotonic() - start


@contextmanager
def api(workspace: Path) -> Iterator[SyncPrefectClient]:
    """A client of the Prefect server of a workspace, which asks every client for its secret."""
    server = find_server(workspace)
    assert server is not None, f"no server runs for {workspace}"
    yield _client(server.url, find_secret(prefect_home(workspace)))


@cache
def _client(url: str, secret: str | None) -> SyncPrefectClient:
    """One for the life of this process: making one costs three times as much as a question."""
    # At import Prefect would read the environment, which a test may set first.
    from prefect.client.orchestration import SyncPrefectClient

    return SyncPrefectClient(url, auth_string=secret).__enter__()


def start_serving(
    workspace: Path, datasets: Path, recipe: Path | None = None
) -> tuple[subprocess.Popen[bytes], int]:
    """Start `ltx2 serve` and wait until it says that it is up; returns the process and MLflow's port."""
    mlflow_port = free_port()
    options = f"--port {free_port()} --mlflow-port {mlflow_port} --files-port {free_port()}"
    command = recipe_of(
        readme("make serve"),
        WORKSPACE=str(workspace),
        DATASETS=str(datasets),
        RECIPE=str(recipe or TINY),
        OPTIONS=options,
    )
    environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"} | {"PYTHONPATH": str(ROOT)}
    path = workspace.with_suffix(".log")
    with path.open("wb") as log:
        # A test that fails stops nothing; its servers end with the tests.
        process = subprocess.Popen(
            bound_to_this_process(command, signal.SIGTERM),
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
        )
    until(lambda: b"Ctrl-C" in path.read_bytes() or process.poll() is not None, 900)
    assert process.poll() is None, path.read_text()
    return process, mlflow_port
