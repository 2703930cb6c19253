"""Progress of a running stage, in a small file of the run that any display can read."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from ltxcore.config.base import Strict
from ltxcore.store.blobs import read_json, write_json

WRITE_EVERY_S = 0.25


class ProgressState(Strict):
    """How far a stage is; `total` 0 means that it does not know yet."""

    stage: str
    done: int
    total: int
    unit: str
    message: str
    started_s: float


class Progress:
    """Counts work and tells it: to a file, and to a listener such as a Prefect artifact."""

    def __init__(
        self, stage: str, run: Path, listener: Callable[[ProgressState], None] | None = None
    ) -> None:
        self._file = progress_file(run, stage)
        self._listener = listener
        self._written_s = 0.0
        self.state = ProgressState(
            stage=stage, done=0, total=0, unit="", message="starting", started_s=time.time()
        )

    def begin(self, total: int, unit: str, message: str = "") -> None:
        """Say how much there is to do."""
        self._set(done=0, total=total, unit=unit, message=message, force=True)

    def advance(self, by: int = 1, message: str | None = None) -> None:
        """Say that some of it is done; the file is written at most four times a second."""
        self.at(self.state.done + by, message)

    def at(self, done: int, message: str | None = None) -> None:
        """Say how much of it is done."""
        told = self.state.message if message is None else message
        self._set(done=done, total=self.state.total, unit=self.state.unit, message=told)

    def end(self, message: str) -> None:
        total = max(self.state.total, self.state.done)
        self._set(done=total, total=total, unit=self.state.unit, message=message, force=True)

    def _set(self, *, done: int, total: int, unit: str, message: str, force: bool = False) -> None:
        self.state = self.state.model_copy(
            update={"done": done, "total": total, "unit": unit, "message": message}
        )
        now = time.monotonic()
        if force or now - self._written_s >= WRITE_EVERY_S:
            self._written_s = now
            write_json(self._file, self.state.model_dump())
            if self._listener is not None:
                self._listener(self.state)


def progress_file(run: Path, stage: str) -> Path:
    return run / "progress" / f"{stage}.json"


def read_progress(run: Path, stage: str) -> ProgressState | None:
    path = progress_file(run, stage)
    return ProgressState.model_validate(read_json(path)) if path.exists() else None
