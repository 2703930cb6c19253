"""A training in several processes, seen from the stage that starts them and waits for them.

The processes meet through a file and talk over the loopback interface, so nothing listens to the network.
They end with the stage, also where it is killed: each reads a pipe whose other end only the stage holds.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from ltxcore.config.base import Strict
from ltxcore.config.recipe import Recipe
from ltxcore.memory.plan import MemoryPlan
from ltxcore.memory.threads import VARIABLES, count_cores
from ltxcore.stages.train_lora.sample_steps import reached_step
from ltxcore.store.blobs import read_model, write_json
from ltxcore.training.metrics import METRICS_FILE, MetricsReader

if TYPE_CHECKING:
    from ltxcore.training.metrics import StepMetrics

logger = logging.getLogger(__name__)

POLL_S = 0.2
STOP_WITHIN_S = 10.0
"""What the other processes get to end by themselves once one has failed."""
LOG_LINES = 8
INTERRUPTED, PAUSED = "interrupted", "paused"
"""How a process ends that has done what it was asked to."""


class TeamAssignment(Strict):
    """The job of a training's processes; paths as text."""

    workspace: str
    datasets_file: str
    snapshot: str
    recipe: Recipe
    directory: str
    request: dict[str, Any]
    memory_plan: MemoryPlan
    threads: int | None
    """That each process computes with; None: on a GPU, where torch's own number does."""
    pause_at: int
    count: int


class Ended(Strict):
    """How one process of a training ended, if not by finishing."""

    kind: str
    message: str
    out_of_memory: bool = False
    interrupted_after: int | None = None


class ProcessFailed(RuntimeError):
    """A process of a training failed; its log is named."""


class ProcessOutOfMemory(MemoryError):
    """A process of a training ran out of memory."""


class Team:
    """The processes of one training.

    Args:
        job: the same for all of them.
    """

    def __init__(self, job: TeamAssignment) -> None:
        self._job = job
        self.directory = Path(job.directory) / "processes"

    def run(self, on_step: Callable[[StepMetrics], None], should_stop: Callable[[], bool]) -> bool:
        """Start the processes; True when the last step is done, False where they have paused before it.

        Raises:
            TrainingInterrupted: `should_stop` said so; the checkpoint is written.
            ProcessOutOfMemory, ProcessFailed: one of them failed; the others were ended.
        """
        from ltxcore.training.loop import TrainingInterrupted

        self._prepare()
        training = Path(self._job.directory)
        record = MetricsReader(training / METRICS_FILE, done=reached_step(training))
        with self._started() as processes:
            while any(process.poll() is None for process in processes):
                for metrics in record.new():
                    on_step(metrics)
                if should_stop():
                    stop_file(self.directory).touch()
                if any(process.poll() not in (None, 0) for process in processes):
                    break
                time.sleep(POLL_S)
            self._check(processes)
        for metrics in record.new():
            on_step(metrics)
        ended = read_end(self.directory, 0)
        if ended is not None and ended.interrupted_after is not None:
            raise TrainingInterrupted(ended.interrupted_after)
        return ended is None

    def _prepare(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        write_json(job_file(self.directory), self._job.model_dump(mode="json"))

    @contextmanager
    def _started(self) -> Iterator[list[subprocess.Popen[bytes]]]:
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(self._job.count):
                processes.append(self._start(rank))
            yield processes
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                process.wait()
                if process.stdin is not None:
                    process.stdin.close()

    def _start(self, rank: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "ltxcore.stages.train_lora.process", str(self.directory), str(rank)]
        with self._log(rank).open("wb") as log:
            return subprocess.Popen(
                command,
                env=self._environment(rank),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _environment(self, rank: int) -> dict[str, str]:
        count = self._job.count
        loopback = _loopback()
        return {
            "OMP_NUM_THREADS": str(max(1, count_cores() // count)),
            "GLOO_SOCKET_IFNAME": loopback,
            "NCCL_SOCKET_IFNAME": loopback,
            **os.environ,
            **({} if self._job.threads is None else dict.fromkeys(VARIABLES, str(self._job.threads))),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            # What accelerate takes a launched process by.
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "29500",
        }

    def _check(self, processes: list[subprocess.Popen[bytes]]) -> None:
        if all(process.poll() == 0 for process in processes):
            return
        deadline = time.monotonic() + STOP_WITHIN_S
        # One that failed leaves the others waiting for it; each that notices writes down why.
        while time.monotonic() < deadline and any(process.poll() is None for process in processes):
            time.sleep(POLL_S)
        silent = [n for n, p in enumerate(processes) if p.poll() and read_end(self.directory, n) is None]
        gone = "; ".join(
            f"process {n} of {len(processes)} ended with status {processes[n].poll()}, "
            f"its log {self._log(n)} with: {_tail(self._log(n))}"
            for n in silent
        )
        failure = self._first_failure()
        if failure is None:
            raise ProcessFailed(gone)
        rank, ended = failure
        text = f"process {rank} of {len(processes)}: {ended.message} (log: {self._log(rank)})"
        text = "; ".join(part for part in (text, gone) if part)
        raise ProcessOutOfMemory(text) if ended.out_of_memory else ProcessFailed(f"{ended.kind}: {text}")

    def _first_failure(self) -> tuple[int, Ended] | None:
        written = [
            (end_file(self.directory, rank).stat().st_mtime_ns, rank)
            for rank in range(self._job.count)
            if end_file(self.directory, rank).exists()
        ]
        for _, rank in sorted(written):
            ended = read_end(self.directory, rank)
            if ended is not None and ended.kind not in (INTERRUPTED, PAUSED):
                return rank, ended
        return None

    def _log(self, rank: int) -> Path:
        return self.directory / f"process-{rank}.log"


def job_file(directory: Path) -> Path:
    """The file with a team's job."""
    return directory / "job.json"


def stop_file(directory: Path) -> Path:
    """A file that makes a team stop after the current step, if it exists."""
    return directory / "stop"


def end_file(directory: Path, rank: int) -> Path:
    """Where a process writes how it ended."""
    return directory / f"ended-{rank}.json"


def read_end(directory: Path, rank: int) -> Ended | None:
    """How a process ended; None where it finished, or is still at work."""
    file = end_file(directory, rank)
    return read_model(file, Ended) if file.exists() else None


def _loopback() -> str:
    for name, addresses in psutil.net_if_addrs().items():
        if any(a.family == socket.AF_INET and a.address == "127.0.0.1" for a in addresses):
            return name
    raise ProcessFailed("this machine has no loopback interface, over which the processes of a training talk")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:])
