"""`ltx2 serve` as a process, for tests."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from flows.leash import ROOT
from flows.server import free_port
from tests.e2e.readme import readme, recipe_of

TINY = ROOT / "deploy/recipes/tiny.yaml"


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
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    until(lambda: b"Ctrl-C" in path.read_bytes() or process.poll() is not None, 120)
    assert process.poll() is None, path.read_text()
    return process, mlflow_port
