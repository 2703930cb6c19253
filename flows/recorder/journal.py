"""The file that a recorder writes: a line of JSON for each thing that a run reports, in order.

A line is written before its request is answered. One that a kill has cut was never answered, and is left out
when the file is read.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

Entry = dict[str, Any]
SUFFIX: Final = ".jsonl"
log = logging.getLogger(__name__)


def folder(home: Path) -> Path:
    """Where a PREFECT_HOME keeps the journals that no server has taken up yet."""
    return home / "records"


def waiting(home: Path) -> list[Path]:
    """The journals that no server has taken up yet, the oldest first."""
    return sorted(folder(home).glob(f"*{SUFFIX}"))


def read(journal: Path) -> Iterator[Entry]:
    """The entries of a journal. A line that a kill or a power cut has damaged is left out, with a warning."""
    with journal.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
            except ValueError:
                entry = None
            if isinstance(entry, dict):
                yield entry
            else:
                log.warning("%s:%d is damaged, as a kill leaves it; the line is left out", journal, number)


class Journal:
    """A journal that is being written; its file begins with the first entry, and is locked until the end."""

    def __init__(self, home: Path) -> None:
        self._path = folder(home) / f"{time.time_ns()}-{os.getpid()}{SUFFIX}"
        self._file: int | None = None
        self._size = 0

    def write(self, entry: Entry, *, lasting: bool) -> None:
        """Append an entry; where `lasting` is set, it is on the disk, with all before it, when this returns.

        Raises:
            OSError: there is no room for it; nothing of it is left.
        """
        if self._file is None:
            self._file = self._begin()
        line = json.dumps(entry).encode() + b"\n"
        try:
            written = 0
            while written < len(line):
                written += os.pwrite(self._file, line[written:], self._size + written)
            if lasting:
                os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(line)

    def close(self) -> None:
        """Leave the journal to a server; so does the end of this process."""
        if self._file is not None:
            os.close(self._file)

    def _begin(self) -> int:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        unseen = self._path.with_suffix(".new")
        file = os.open(unseen, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        # A server that runs takes up what nobody holds, so the file is seen only when it is held.
        fcntl.flock(file, fcntl.LOCK_EX)
        unseen.rename(self._path)
        return file


@contextmanager
def over(journal: Path) -> Iterator[bool]:
    """Whether its writer has ended; nobody else takes it up in this block."""
    with journal.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
