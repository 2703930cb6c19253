"""Progress of a running stage, in a small file of the run that any display can read."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from ltxcore.config.base import Strict
from ltxcore.store.blobs import read_model, write_json

WRITE_EVERY_S = 0.25


class ProgressState(Strict):
    """How far a stage is; `total` 0 means that it does not know yet."""

    stage: str
    done: int
    total: int
    unit: str
    message: str
    started_s: float
    resumed_at: int | None = None
    """What an earlier run had done of it, found when this one began; None: not known yet."""
    stopped: str = ""
    """Where it was stopped on request, in words; empty while it goes on."""
    directory: str = ""
    """Of the request that the stage works on, relative to the workspace; empty: not known."""


class Progress:
    """Counts work and tells it: to a file, and to a listener such as a Prefect artifact."""

    def __init__(
        self,
        stage: str,
        run: Path,
        listener: Callable[[ProgressState], None] | None = None,
        directory: str = "",
    ) -> None:
        self._file = progress_file(run, stage)
        self._listener = listener
        self._written_s = 0.0
        self.state = ProgressState(
            stage=stage,
            done=0,
            total=0,
            unit="",
            message="starting",
            started_s=time.time(),
            directory=directory,
        )
        # A stage has several processes in a run: after a pause, or after memory ran out.
        if (before := read_progress(run, stage)) is not None:
            self.state = self.state.model_copy(update={"resumed_at": before.resumed_at})

    def begin(self, total: int, unit: str, message: str = "") -> None:
        """Say how much there is to do."""
        self._set(done=0, total=total, unit=unit, message=message, force=True)

    def advance(self, by: int = 1, message: str | None = None) -> None:
        """Say that some of it is done; the file is written at most four times a second."""
        self.at(self.state.done + by, message)

    def at(self, done: int, message: str | None = None) -> None:
        """Say how much of it is done."""
        shown = self.state.message if message is None else message
        self._set(done=done, message=shown)

    def ends_at(self, total: int) -> None:
        """Say that there is no more to do than this."""
        self._set(done=total, total=total, force=True)

    def resumed(self, at: int) -> None:
        """Say how much was done before this run; only what is said first in a run counts."""
        if self.state.resumed_at is None:
            self._set(resumed_at=at, force=True)

    def stop(self, words: str) -> None:
        """Say that it was stopped on request, and what is kept."""
        self._set(stopped=words, message="stopped", force=True)

    def end(self, message: str) -> None:
        """All is done; `message` stays on the bar."""
        total = max(self.state.total, self.state.done)
        self._set(done=total, total=total, message=message, force=True)

    def _set(self, *, force: bool = False, **changes: int | str) -> None:
        self.state = self.state.model_copy(update=changes)
        now = time.monotonic()
        if force or now - self._written_s >= WRITE_EVERY_S:
            self._written_s = now
            write_json(self._file, self.state.model_dump())
            if self._listener is not None:
                self._listener(self.state)


def progress_file(run: Path, stage: str) -> Path:
    """Where a stage of a run writes its progress."""
    return run / "progress" / f"{stage}.json"


def read_progress(run: Path, stage: str) -> ProgressState | None:
    """A stage's progress in a run; None before it has begun."""
    path = progress_file(run, stage)
    return read_model(path, ProgressState) if path.exists() else None


def duration(seconds: float) -> str:
    """A time to wait, in the unit that fits."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"
