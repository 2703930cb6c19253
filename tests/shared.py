"""What a test session makes once for all of its worker processes."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ltxcore.store.sqlite_url import sqlite_url


def session_directory(factory: pytest.TempPathFactory) -> Path:
    """A directory that all workers of this session see, and no other session."""
    base = factory.getbasetemp()
    # A worker of pytest-xdist has a folder of its own in that of the session.
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made-once"
    shared.mkdir(exist_ok=True)
    return shared


def made_once(shared: Path, name: str, make: Callable[[Path], object]) -> Path:
    """The directory `name` in `shared`, filled by the first process that asks for it.

    Tests copy what they change. One that fails halfway, or is killed, leaves it to the next to make it anew.
    """
    made, whole = shared / name, shared / f"{name}.whole"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.exists():
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir()
            make(made)
            whole.touch()
    return made


def empty_tracking_database(workspace: Path) -> None:
    """The MLflow database of a workspace, with all its tables and no run of ours."""
    from mlflow import MlflowClient

    (workspace / "mlflow").mkdir()
    MlflowClient(sqlite_url(workspace / "mlflow" / "mlflow.db"))


def forget_training() -> None:
    """Let the next training of this process choose its precision, as the first one of a process does."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
