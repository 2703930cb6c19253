"""A child of `ltx2 serve` that falls is started again, and what falls for ever ends the whole."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from flows.readiness import Service
from flows.supervision import FALLS, Supervised, watch

KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
WAITING = "import time; time.sleep(600)"


def child(tmp_path: Path, name: str, code: str) -> Callable[[], Service]:
    return lambda: Service(name, subprocess.Popen([sys.executable, "-c", code]), tmp_path / f"{name}.log")


def test_what_falls_is_started_again_and_given_up_when_it_falls_for_ever(tmp_path: Path) -> None:
    falling = child(tmp_path, "The worker", KILLED)
    waiting = child(tmp_path, "MLflow", WAITING)
    children = [Supervised(waiting(), waiting), Supervised(falling(), falling)]
    first = children[1].service.process.pid
    said: list[str] = []
    fallen = watch(children, said.append)
    assert fallen.name == "The worker"
    assert fallen.process.pid != first
    assert len(said) == FALLS
    assert said[0] == (
        "The worker was killed by SIGKILL (often the system, out of memory), and is started again. "
        f"See {tmp_path / 'The worker.log'}"
    )
    assert children[0].service.process.poll() is None, "the others go on"
    children[0].stop(60)
    assert children[0].service.process.poll() is not None


def test_what_cannot_be_taken_up_by_another_is_not_started_again(tmp_path: Path) -> None:
    said: list[str] = []
    fallen = watch([Supervised(child(tmp_path, "The Prefect server", "raise SystemExit(3)")())], said.append)
    assert (fallen.name, fallen.process.returncode, said) == ("The Prefect server", 3, [])
