"""What MLflow should have of a run and what has arrived, kept in one file across crashes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ltxcore.config.base import Strict
from ltxcore.store.blobs import read_json, write_json
from ltxcore.store.fingerprint import FileIdentity
from ltxcore.tracking.metrics_log import Position

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


class Artifact(Strict):
    """A file to keep in MLflow, as it was when it was handed over."""

    path: str
    folder: str
    identity: FileIdentity


class Wanted(Strict):
    """Everything that MLflow should know."""

    metrics_files: tuple[str, ...] = ()
    params: Mapping[str, str] = Field(default_factory=dict)
    tags: Mapping[str, str] = Field(default_factory=dict)
    artifacts: tuple[Artifact, ...] = ()
    status: Status | None = None


class Delivered(Strict):
    """What has arrived at one tracking server."""

    server: str = ""
    """Fingerprint of the tracking URI: another server starts from nothing."""
    experiment_id: str | None = None
    run_id: str | None = None
    positions: Mapping[str, Position] = Field(default_factory=dict)
    """Metrics file -> how far it was sent."""
    last_steps: Mapping[str, int] = Field(default_factory=dict)
    """Metric -> the last step that was sent of it."""
    params: Mapping[str, str] = Field(default_factory=dict)
    tags: Mapping[str, str] = Field(default_factory=dict)
    artifacts: tuple[Artifact, ...] = ()
    status: Status | None = None


class RunState(Strict):
    """The state file of a run."""

    key: str
    """Written to the run as a tag, so that a run made just before a crash is found and not made again."""
    started_ms: int
    wanted: Wanted = Wanted()
    delivered: Delivered = Delivered()

    def want(self, **changes: Any) -> RunState:
        """The state with these values to be sent."""
        return self.model_copy(update={"wanted": self.wanted.model_copy(update=changes)})

    def deliver(self, **changes: Any) -> RunState:
        """The state with these values received by MLflow."""
        return self.model_copy(update={"delivered": self.delivered.model_copy(update=changes)})


def load_state(path: Path) -> RunState:
    """The state in a file, or that of a run that begins now.

    Raises:
        ValueError: the file holds something else.
    """
    if path.exists():
        return RunState.model_validate(read_json(path))
    return RunState(key=uuid.uuid4().hex, started_ms=int(time.time() * 1000))


def save_state(path: Path, state: RunState) -> None:
    """Publish the state atomically."""
    write_json(path, state.model_dump(mode="json"))
