"""`ltx2 serve` as a process, for tests."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from flows.leash import ROOT
from flows.server import free_port


def until(condition: Callable[[], object], limit_s: float) -> float:
    """Wait until the condition holds; returns the seconds it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < limit_s, f"it did not come in {limit_s} s"
        time.sleep(0.2)
    return time.monotonic() - start


def start_serving(
    workspace: Path, datasets: Path, recipe: Path | None = None
) -> tuple[subprocess.Popen[bytes], int]:
    """Start `ltx2 serve` and wait until it says that it is up; returns the process and MLflow's port."""
    mlflow_port = free_port()
    command = [
        *(sys.executable, "-m", "flows.cli", "serve"),
        *("--workspace", str(workspace), "--datasets", str(datasets)),
        *("--port", str(free_port()), "--mlflow-port", str(mlflow_port)),
        *(("--recipe", str(recipe)) if recipe else ()),
    ]
    environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"} | {"PYTHONPATH": str(ROOT)}
    path = workspace.with_suffix(".log")
    with path.open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    until(lambda: b"Ctrl-C" in path.read_bytes() or process.poll() is not None, 120)
    assert process.poll() is None, path.read_text()
    return process, mlflow_port
