"""Makes one call of a piece of work fail: a write, flush, rename, link, mkdir, open, removal or put.

The work runs in a forked child whose calls below one folder are counted and of which the n-th fails: with an
error of the disk, by writing half and then finding the disk full, or by SIGKILL. Disk calls are those of
Python's `os` and of its files, through which all that the project commits is written.
"""

from __future__ import annotations

import errno
import io
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

Failure = Literal["EIO", "ENOSPC", "ESTALE", "short write", "kill", "stop", "lost answer", "kill after"]
ON_DISK: Final[tuple[Failure, ...]] = ("EIO", "ENOSPC", "ESTALE", "kill")
"""Of any call on a disk; a write may be short as well."""
OF_A_PUT: Final[tuple[Failure, ...]] = ("EIO", "kill", "lost answer", "kill after")
"""An object store may have done what it does not answer."""
LATE: Final = ("lost answer", "kill after")
DONE: Final = "done"
KILLED: Final = "killed"
CALLS: Final = ("open", "write", "fsync", "replace", "rename", "link", "mkdir", "unlink", "rmdir")


@dataclass(frozen=True)
class Point:
    """One call that is made to fail: the `number`-th, counted from 1, and what it is."""

    number: int
    call: str
    failure: Failure


class Stopped(BaseException):
    """The process is as good as dead: nothing that it does from here on reaches the folder."""


@dataclass
class Calls:
    """Counts the calls below a folder, and fails one of them."""

    root: Path
    fail_at: Point | None = None
    seen: list[str] = field(default_factory=list)
    stopped: bool = False

    def enter(self, call: str, path: Any) -> None:
        """Count a call before it happens; it does not where it is the one that fails."""
        if not self._below(path):
            return
        if self.stopped:
            raise Stopped
        self.seen.append(call)
        point = self.fail_at
        if point is None or len(self.seen) != point.number or point.failure in LATE:
            return
        if point.failure == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if point.failure == "stop":
            self.stopped = True
            raise Stopped
        if point.failure != "short write":
            self.fail(point.failure, path)

    def leave(self, call: str, path: Any) -> None:
        """The call has been done; its answer may get lost, or its caller may die before it hears."""
        point = self.fail_at
        if point is None or len(self.seen) != point.number:
            return
        if point.failure == "kill after":
            os.kill(os.getpid(), signal.SIGKILL)
        if point.failure == "lost answer":
            self.fail("ETIMEDOUT", path)

    def is_short(self) -> bool:
        """Whether the write that was just counted is the one of which half is written."""
        point = self.fail_at
        return point is not None and point.failure == "short write" and len(self.seen) == point.number

    def fail(self, failure: str, path: Any) -> NoReturn:
        """Raise what the system would.

        Raises:
            OSError: always.
        """
        number = getattr(errno, failure)
        raise OSError(number, os.strerror(number), str(path))

    def _below(self, path: Any) -> bool:
        if isinstance(path, int):
            try:
                path = _opened(path)
            except OSError:
                return False
        return str(os.fspath(path)).startswith(f"{self.root}/")


def _opened(descriptor: int) -> str:
    """The path of what is open under a number."""
    return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 - a Path would be normalised


class Active:
    """The calls that are counted now, for what is no call of the system; a process has one fault at once."""

    calls: Calls | None = None


class _File:
    """A file opened for writing, of which each write is counted."""

    def __init__(self, file: Any, path: Any, calls: Calls) -> None:
        self._file, self._path, self._calls = file, path, calls

    def write(self, data: Any) -> int:
        self._calls.enter("write", self._path)
        if self._calls.is_short():
            done: int = self._file.write(data[: len(data) // 2])
            if isinstance(self._file, io.RawIOBase):
                # As the system may: the caller writes the rest.
                return done
            # A buffered file writes until there is no room.
            self._file.flush()
            self._calls.fail("ENOSPC", self._path)
        written: int = self._file.write(data)
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _File:
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)


def count(work: Callable[[], object], root: Path) -> list[str]:
    """The calls that a piece of work makes below a folder, in order; it runs in a child.

    Raises:
        RuntimeError: the work fails by itself.
    """
    result, seen = _in_child(work, Calls(root))
    if result != DONE:
        raise RuntimeError(f"the work failed without a fault: {result}")
    return seen


def run(work: Callable[[], object], root: Path, point: Point) -> str:
    """Run a piece of work with one failing call: `done`, `killed`, or the error that it ended with."""
    return _in_child(work, Calls(root, point))[0]


def run_here(work: Callable[[], object], root: Path, point: Point) -> str:
    """As `run`, without a child: `stop` stands for a kill. Files that were open are closed, as a kill does.

    Errors that no disk gives are raised: they are the work's own.
    """
    try:
        with _counted(Calls(root, point)):
            work()
    except Stopped:
        return KILLED
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    return DONE


def _in_child(work: Callable[[], object], calls: Calls) -> tuple[str, list[str]]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        result = DONE
        try:
            with _counted(calls):
                work()
        except BaseException as error:  # noqa: BLE001 - it must not unwind into the parent's code
            result = f"{type(error).__name__}: {error}"
        with os.fdopen(writing, "w") as answer:
            json.dump([result, calls.seen], answer)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        reply = answer.read()
    os.waitpid(child, 0)
    result, seen = json.loads(reply) if reply else (KILLED, [])
    return result, seen


@contextmanager
def _counted(calls: Calls) -> Iterator[None]:
    """Every call below the folder goes through `calls` until the block ends."""
    before = {name: getattr(os, name) for name in (*CALLS, "fdopen") if hasattr(os, name)}
    plain_open = io.open

    def counted(name: str) -> Callable[..., Any]:
        def call(path: Any, *rest: Any, **more: Any) -> Any:
            folder = more.get("dir_fd")
            where = path if folder is None else f"{_opened(folder)}/{path}"
            calls.enter(name, where)
            if calls.is_short():
                # Only a write can be short; any other call finds the disk full.
                calls.fail("ENOSPC", path)
            return before[name](path, *rest, **more)

        return call

    def descriptor(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            calls.enter("open", path)
            if calls.is_short():
                calls.fail("ENOSPC", path)
        opened: int = before["open"](path, flags, *rest, **more)
        return opened

    def opened(path: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if not set(mode) & set("wax+") or isinstance(path, int):
            return plain_open(path, mode, *rest, **more)
        calls.enter("open", path)
        if calls.is_short():
            calls.fail("ENOSPC", path)
        return _File(plain_open(path, mode, *rest, **more), path, calls)

    def fdopen(descriptor: int, mode: str = "r", *rest: Any, **more: Any) -> Any:
        file = before["fdopen"](descriptor, mode, *rest, **more)
        return _File(file, descriptor, calls) if set(mode) & set("wax+") else file

    for name in CALLS:
        if name not in ("open", "write"):
            setattr(os, name, counted(name))
    os.open, os.fdopen, io.open = descriptor, fdopen, opened  # type: ignore[assignment]
    Active.calls = calls
    try:
        yield
    finally:
        Active.calls = None
        for name, call in before.items():
            setattr(os, name, call)
        io.open = plain_open  # type: ignore[misc]
