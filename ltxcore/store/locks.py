"""One writer at a time on a local disk: a lock that the kernel releases when its holder dies."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_S = 0.2
Told = Callable[[str], None]


class StoreBusy(RuntimeError):
    """Another process held the lock for longer than the caller would wait."""


def describe_holder(purpose: str) -> str:
    """What is told to whoever waits for this process."""
    return f"{purpose}, process {os.getpid()} on {socket.gethostname()}"


@contextmanager
def exclusive(
    path: Path, purpose: str, wait_s: float | None = None, on_wait: Told | None = None
) -> Iterator[None]:
    """Hold the lock file `path` while the body runs.

    Args:
        purpose: what the holder does, told to whoever waits.
        wait_s: how long to wait for another holder, in seconds; None: for as long as it lives.
        on_wait: told who holds the lock, once for each holder that is waited for.

    Raises:
        StoreBusy: the lock was not free within `wait_s`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        deadline = None if wait_s is None else time.monotonic() + wait_s
        told = None
        while not _try_lock(file.fileno()):
            file.seek(0)
            holder = file.read().strip() or "another process"
            if holder != told and on_wait is not None:
                on_wait(holder)
            told = holder
            if deadline is not None and time.monotonic() > deadline:
                raise StoreBusy(f"{path.parent} is being written by {holder}; waited {wait_s:.0f} s")
            time.sleep(POLL_S)
        file.truncate(0)
        file.write(describe_holder(purpose))
        file.flush()
        try:
            yield
        finally:
            # Whoever takes the lock next must not be taken for this process.
            file.truncate(0)


@contextmanager
def in_use(path: Path) -> Iterator[None]:
    """Say by the lock file `path` that something is used while the body runs; several may say so at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_SH)
        yield


def is_held(path: Path) -> bool:
    """Whether some process holds a lock file, alone or with others."""
    try:
        with path.open() as file:
            return not _try_lock(file.fileno())
    except FileNotFoundError:
        return False


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
