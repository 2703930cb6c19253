"""One writer at a time on a local disk: a lock that the kernel releases when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

logger = logging.getLogger(__name__)

UNKNOWN_HOLDER: Final = "another process"
POLL_S = 0.2
OnWait = Callable[[str], None]


class StoreBusy(RuntimeError):
    """Another process held the lock for longer than the caller would wait."""


def describe_holder(purpose: str) -> str:
    """The description of this process that waiting processes show."""
    return f"{purpose}, process {os.getpid()} on {socket.gethostname()}"


@contextmanager
def exclusive(
    path: Path, purpose: str, wait_s: float | None = None, on_wait: OnWait | None = None
) -> Iterator[None]:
    """Hold the lock file `path` while the body runs.

    Args:
        purpose: what the holder does, shown to waiting processes.
        wait_s: how long to wait for another holder, in seconds; None: for as long as it lives.
        on_wait: called with the holder's description, once for each holder.

    Raises:
        StoreBusy: the lock was not free within `wait_s`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = None if wait_s is None else time.monotonic() + wait_s
    named = None
    with contextlib.ExitStack() as stack:
        while (file := _locked(path, stack)) is None:
            holder = _holder(path)
            if holder != named and on_wait is not None:
                on_wait(holder)
            named = holder
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
            if not _is_at(file, path):
                logger.warning(
                    "%s was deleted while it was held: another process may have written meanwhile. Nothing "
                    "is lost, since what is committed is only ever created; leave lock files alone",
                    path,
                )


def _locked(path: Path, stack: contextlib.ExitStack) -> IO[str] | None:
    """The lock file, open and locked, or None where another process has it.

    A file that was deleted between the opening and the locking keeps nobody out: the next one opens another.
    """
    while True:
        file = path.open("a+")
        if not _try_lock(file.fileno()):
            file.close()
            return None
        if _is_at(file, path):
            return stack.enter_context(file)
        file.close()


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether an open file is the one of that name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    """What the holder of a lock wrote into it; whatever else is there is no reason to stop."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or UNKNOWN_HOLDER
    except FileNotFoundError:
        return UNKNOWN_HOLDER


@contextmanager
def in_use(path: Path) -> Iterator[None]:
    """Say by the lock file `path` that something is used while the body runs; several may say so at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a+") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH)
            if _is_at(file, path):
                yield
                return


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
