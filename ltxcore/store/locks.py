"""One writer at a time on a local store: a lock that the kernel releases when its holder dies."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class StoreBusy(RuntimeError):
    """Another process held the lock for longer than the caller would wait."""


@contextmanager
def exclusive(
    path: Path, purpose: str, wait_s: float = 3600.0, on_wait: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold the lock file `path` while the body runs.

    Args:
        purpose: what the holder does, told to whoever waits.
        wait_s: how long to wait for another holder, in seconds.
        on_wait: told once who holds the lock.

    Raises:
        StoreBusy: the lock was not free within `wait_s`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        deadline = time.monotonic() + wait_s
        told = False
        while not _try_lock(file.fileno()):
            file.seek(0)
            holder = file.read().strip() or "another process"
            if not told and on_wait is not None:
                on_wait(holder)
            told = True
            if time.monotonic() > deadline:
                raise StoreBusy(f"{path.parent} is being written by {holder}; waited {wait_s:.0f} s")
            time.sleep(0.2)
        file.truncate(0)
        file.write(f"{purpose}, process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
