"""Watches host memory: a stage that exceeds its budget ends with an error before the machine runs out.

A thread looks at what the process and its children hold. Past the limit it raises in the main thread, by
way of a signal, so that a stage ends between two of Python's steps, after its last commit. A main thread
that does not get there, deep in one long call, is killed: the breach is on record by then.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

import psutil

from ltxcore.memory.plan import GIB, OverBudget

logger = logging.getLogger(__name__)

POLL_S = 0.2
LIST_CHILDREN_S = 1.0
REPEAT_S = 5.0
GRACE_S = 30.0
SIGNAL = signal.SIGUSR1


@dataclass(frozen=True)
class Use:
    """Host memory of a process with its children, and what it may be."""

    used_bytes: int
    limit_bytes: int

    def __str__(self) -> str:
        return f"{self.used_bytes / GIB:.2f} GiB of host memory, of {self.limit_bytes / GIB:.2f} allowed"


class HostMemoryExceeded(BaseException):
    """The process holds more host memory than it may.

    Not an `Exception`: what retries or records a failed piece of work must not take it for one.
    """

    def __init__(self, use: Use) -> None:
        super().__init__(f"the process and its children hold {use}")
        self.use = use


class Watchdog:
    """Watches while its `with` block runs. Main thread only; one at a time.

    Args:
        limit_bytes: what the process and its children may hold.
        on_breach: called once, in the watching thread, before the main thread hears of it.
        on_peak: called in the watching thread whenever the use has grown by a fiftieth.

    Raises:
        OverBudget: on entering, where the process holds more than the limit already.
        HostMemoryExceeded: out of the block.
    """

    def __init__(
        self,
        limit_bytes: int,
        *,
        on_breach: Callable[[Use], None] = lambda use: None,
        on_peak: Callable[[Use], None] = lambda use: None,
        poll_s: float = POLL_S,
        grace_s: float = GRACE_S,
    ) -> None:
        self.limit_bytes = limit_bytes
        self.peak_bytes = 0
        self._on_breach, self._on_peak = on_breach, on_peak
        self._poll_s, self._grace_s = poll_s, grace_s
        self._left = threading.Event()
        self._breach: Use | None = None
        self._before: signal.Handlers | Callable[[int, FrameType | None], object] | int | None = None
        self._thread = threading.Thread(target=self._watch, name="memory-watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        used = host_use_bytes()
        if used > self.limit_bytes:
            raise OverBudget(
                f"the process holds {used / GIB:.2f} GiB before it has loaded anything, and "
                f"memory.ram_gib allows {self.limit_bytes / GIB:.2f}; allow more"
            )
        self._before = signal.signal(SIGNAL, self._raise)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._thread.join()
        signal.signal(SIGNAL, self._before)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        # The signal of a breach can still arrive while the block is being left.
        if self._breach is not None and not self._left.is_set():
            raise HostMemoryExceeded(self._breach)

    def _watch(self) -> None:
        family: list[psutil.Process] = []
        listed_s = 0.0
        while not self._left.wait(self._poll_s):
            # Listing children reads every process of the machine.
            if time.monotonic() - listed_s > LIST_CHILDREN_S:
                family, listed_s = _family(), time.monotonic()
            use = Use(sum(map(_used_bytes, family)), self.limit_bytes)
            if use.used_bytes > self.peak_bytes * 1.02:
                self.peak_bytes = use.used_bytes
                self._on_peak(use)
            if use.used_bytes > self.limit_bytes:
                self._breach = use
                self._on_breach(use)
                self._end_block()
                return

    def _end_block(self) -> None:
        """Signal until the block is left, for a library may swallow what is raised in its callbacks."""
        deadline = time.monotonic() + self._grace_s
        while time.monotonic() < deadline:
            if threading.main_thread().ident is not None:
                signal.pthread_kill(threading.main_thread().ident or 0, SIGNAL)
            if self._left.wait(REPEAT_S):
                return
        logger.error("the stage did not stop within %.0f s of outgrowing its memory: killed", self._grace_s)
        os.kill(os.getpid(), signal.SIGKILL)


def host_use_bytes() -> int:
    """What this process and its children hold of host memory that the system cannot take back.

    Resident pages of files, such as mapped weights, are left out where the system tells them apart (Linux):
    it drops them when it needs the room.
    """
    return sum(map(_used_bytes, _family()))


def _family() -> list[psutil.Process]:
    own = psutil.Process()
    return [own, *own.children(recursive=True)]


def _used_bytes(process: psutil.Process) -> int:
    try:
        if sys.platform == "linux":
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii", errors="replace")
            kib = [
                int(line.split()[1])
                for line in status.splitlines()
                if line.startswith(("RssAnon:", "RssShmem:"))
            ]
            return sum(kib) << 10
        return int(process.memory_info().rss)
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        # A child that ended between being listed and being looked at.
        return 0
