"""What a stage has learnt of its memory: the plans that ran out of it, kept for its next process.

A record lies in the directory of the request. It counts only for the same machine and the same `memory:` of
the recipe: with more room the fastest plan is tried again.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import psutil

from ltxcore.config.base import Strict
from ltxcore.config.memory_settings import MemorySettings
from ltxcore.memory.plan import GIB, MemoryPlan
from ltxcore.memory.planner.fallback import Exhausted, Kind
from ltxcore.store.blobs import read_model, write_json

MAX_FAILED_PLANS = 4
"""Times that one request may run out of memory before it is left failed."""
NEARLY_FULL = 0.85
"""A process that was killed with this share of its limit in use is taken for one that was short of it."""


class FailedPlan(Strict):
    """One plan that ran out of memory."""

    plan: str
    reason: str
    at_s: float
    kind: Kind = "host"
    """Which memory was short."""
    device_bytes: int = 0
    """What the plan was predicted to take on the device; 0 where there is none."""
    host_bytes: int = 0

    @property
    def exhausted(self) -> Exhausted:
        """The failed plan as the planner sees it."""
        return Exhausted(self.kind, self.device_bytes, self.host_bytes)


class Attempt(Strict):
    """A process at work by a plan; one that is still here although the process is gone was killed."""

    plan: str
    process: int
    started_s: float
    used_bytes: int = 0
    limit_bytes: int = 0
    device_bytes: int = 0
    host_bytes: int = 0


class Record(Strict):
    """The file of a request's failed plans."""

    setbacks: tuple[FailedPlan, ...]


class OutOfMemoryRecord:
    """The record of one request on this machine."""

    def __init__(self, directory: Path, memory: MemorySettings) -> None:
        budget = "-".join(f"{value or 0:g}" for value in (memory.vram_gib, memory.ram_gib))
        folder = directory / "memory"
        self._file = folder / f"{socket.gethostname()}-{budget}.json"
        self._attempt_file = folder / f"{socket.gethostname()}-{budget}-running.json"

    def all(self) -> list[FailedPlan]:
        """Every plan that failed so far, oldest first."""
        if not self._file.exists():
            return []
        return list(read_model(self._file, Record).setbacks)

    def note(self, plan: str, reason: str, kind: Kind = "host", predicted: MemoryPlan | None = None) -> None:
        """Write down that a plan ran out of memory, of which kind, and what it was predicted to take."""
        device_bytes, host_bytes = _predicted(predicted)
        self._add(
            FailedPlan(
                plan=plan,
                reason=reason,
                at_s=time.time(),
                kind=kind,
                device_bytes=device_bytes,
                host_bytes=host_bytes,
            )
        )

    def _add(self, failed: FailedPlan) -> None:
        write_json(self._file, Record(setbacks=(*self.all(), failed)).model_dump(mode="json"))

    def begin(self, plan: str, predicted: MemoryPlan | None = None) -> None:
        """Say that this process works by a plan."""
        device_bytes, host_bytes = _predicted(predicted)
        self._write(
            Attempt(
                plan=plan,
                process=os.getpid(),
                started_s=time.time(),
                device_bytes=device_bytes,
                host_bytes=host_bytes,
            )
        )

    def used(self, used_bytes: int, limit_bytes: int) -> None:
        """Say how much this process holds: all that is known of one that the system kills."""
        if self._attempt_file.exists():
            attempt = read_model(self._attempt_file, Attempt)
            self._write(attempt.model_copy(update={"used_bytes": used_bytes, "limit_bytes": limit_bytes}))

    def end(self) -> None:
        """Say that this process is done, well or not."""
        self._attempt_file.unlink(missing_ok=True)

    def settle(self) -> None:
        """Turn a process that was killed near its limit into a failed plan, and forget one that was not."""
        if not self._attempt_file.exists():
            return
        attempt = read_model(self._attempt_file, Attempt)
        if psutil.pid_exists(attempt.process):
            return
        self.end()
        if attempt.limit_bytes and attempt.used_bytes >= NEARLY_FULL * attempt.limit_bytes:
            held, limit = attempt.used_bytes / GIB, attempt.limit_bytes / GIB
            self._add(
                FailedPlan(
                    plan=attempt.plan,
                    reason=f"it was killed while it held {held:.2f} of {limit:.2f} GiB of host memory",
                    at_s=time.time(),
                    device_bytes=attempt.device_bytes,
                    host_bytes=attempt.host_bytes,
                )
            )

    def _write(self, attempt: Attempt) -> None:
        write_json(self._attempt_file, attempt.model_dump())


def _predicted(plan: MemoryPlan | None) -> tuple[int, int]:
    """Bytes on the device and in host memory."""
    if plan is None:
        return 0, 0
    return (plan.total_bytes, plan.host_bytes) if plan.on_device else (0, plan.total_bytes)


class MemoryRetry:
    """Says, after a stage has failed, whether it ran out of memory and another plan may be tried."""

    def __init__(self, record: OutOfMemoryRecord) -> None:
        self._record = record
        self._seen = len(record.all())

    def __call__(self) -> str | None:
        """Why to start the stage again, or None where it should be left failed."""
        self._record.settle()
        known = self._record.all()
        if len(known) <= self._seen or len(known) >= MAX_FAILED_PLANS:
            return None
        self._seen = len(known)
        last = known[-1]
        return f"out of memory with {last.plan} ({last.reason}); it is started again with the next plan"
