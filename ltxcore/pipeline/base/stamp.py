"""Stamps: the record, written last, that a stage did its work for one request; and the manifest of a run."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from ltxcore.config.base import Strict
from ltxcore.memory.measure import measure_peaks
from ltxcore.pipeline.base.contract import Stage, versions
from ltxcore.store.blobs import DamagedFile, read_json, read_model, write_json
from ltxcore.store.fingerprint import fingerprint, hash_file
from ltxcore.store.workspace import Workspace

logger = logging.getLogger(__name__)

STAMP_FILE = "stage.json"
FIRST_RUN = "first run"
STOPPED_AFTER = "stopped_after"
"""The fact of a training that somebody has ended before its recipe's last step, and kept."""
HASH = "sha256"
"""The key under which a stamp's file has the hash of the others."""


class OutputFile(Strict):
    """A file that a stage left, relative to the workspace."""

    path: str
    size_bytes: int
    sha256: str


class Outcome(Strict):
    """What a stage did, for people and for the summary."""

    counts: dict[str, int] = Field(default_factory=dict)
    """e.g. clips, encoded, hits, quarantined."""
    facts: dict[str, Any] = Field(default_factory=dict)
    """Small values that later stages or reports read, e.g. the snapshot id or the losses."""
    files: tuple[OutputFile, ...] = ()
    threads: int | None = None
    """Threads that each process computed with on a CPU; None on a GPU whose recipe names none."""


class Stamp(Strict):
    """`stage.json`: immutable, written when everything it names is in place."""

    stage: str
    fingerprint: str
    request: dict[str, Any]
    outcome: Outcome
    started: str
    seconds: float
    peak_rss_bytes: int
    peak_vram_bytes: int
    host: str
    process: int
    python: str

    @property
    def stopped_after(self) -> int | None:
        """The step after which somebody has ended a training; None: nobody has."""
        found: int | None = self.outcome.facts.get(STOPPED_AFTER)
        return found


class Newest(Strict):
    """`newest.json` of a stage."""

    fingerprint: str = Field(pattern=r"^[0-9a-f]{16}$")
    """The name of the directory of the newest request."""


class ManifestEntry(Strict):
    """A stage's entry in the run's manifest: the stamp that this run wrote, or the one that it reused."""

    stage: str
    stamp: str
    up_to_date: bool
    seconds: float
    process: int
    counts: dict[str, int]
    why: str


def request_fingerprint(stage: Stage, request: dict[str, Any]) -> str:
    """The hash that names the result of a request: stage, versions and the request itself."""
    return fingerprint({"stage": stage.name, "versions": versions(stage), "request": request})


def stage_directory(workspace: Workspace, stage: Stage, request: dict[str, Any]) -> Path:
    """Where a stage keeps what belongs to one request alone."""
    return workspace.stages / stage.name / request_fingerprint(stage, request)[:16]


def find_stamp(workspace: Workspace, stage: Stage, request: dict[str, Any]) -> Stamp | None:
    """The stamp of a request if it is whole and every file that it names still has its size."""
    stamp = _whole(stage_directory(workspace, stage, request) / STAMP_FILE)
    if stamp is None or not all(_in_place(workspace, file) for file in stamp.outcome.files):
        return None
    return stamp


def _whole(path: Path) -> Stamp | None:
    """A stamp, or None where there is none that stands for anything: the stage then writes it again."""
    try:
        return load_stamp(path)
    except FileNotFoundError:
        return None
    except DamagedFile as error:
        logger.warning("%s", error)
        return None


def _in_place(workspace: Workspace, file: OutputFile) -> bool:
    path = workspace.root / file.path
    return path.is_file() and path.stat().st_size == file.size_bytes


def output_file(workspace: Workspace, path: Path) -> OutputFile:
    """A finished file for a stamp: its path in the workspace, size and sha256."""
    return OutputFile(path=workspace.relative(path), size_bytes=path.stat().st_size, sha256=hash_file(path))


def write_stamp(
    workspace: Workspace,
    stage: Stage,
    request: dict[str, Any],
    outcome: Outcome,
    started_s: float,
    process: int,
    newest: bool = True,
) -> Stamp:
    """Write the stamp of a finished request; `started_s` is a `time.time()`.

    Later requests are compared only with the stage's `newest`.
    """
    peaks = measure_peaks()
    stamp = Stamp(
        stage=stage.name,
        fingerprint=request_fingerprint(stage, request),
        request=request,
        outcome=outcome,
        started=datetime.fromtimestamp(started_s, UTC).isoformat(timespec="seconds"),
        seconds=round(time.time() - started_s, 3),
        peak_rss_bytes=peaks.rss_bytes,
        peak_vram_bytes=peaks.vram_bytes,
        host=socket.gethostname(),
        process=process,
        python=platform.python_version(),
    )
    directory = stage_directory(workspace, stage, request)
    data = stamp.model_dump(mode="json")
    write_json(directory / STAMP_FILE, {**data, HASH: _hash(data)})
    if newest:
        write_json(_newest(workspace, stage), Newest(fingerprint=directory.name).model_dump())
    return stamp


def load_stamp(path: Path) -> Stamp:
    """The stamp in a file.

    Raises:
        FileNotFoundError: there is none.
        DamagedFile: it is not what was written.
    """
    data = read_json(path)
    if not isinstance(data, dict):
        raise DamagedFile(path, "it is not an object")
    # Stamps of before have no hash, and cost hours to make again.
    if (known := data.pop(HASH, None)) is not None and known != _hash(data):
        raise DamagedFile(path, "its content is not that of its hash")
    try:
        return Stamp.model_validate(data)
    except ValidationError as error:
        raise DamagedFile(path, error) from error


def _hash(data: dict[str, Any]) -> str:
    """sha256 of a stamp's content, as its JSON gives it back."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def whole_stamps(workspace: Workspace, stage: Stage) -> list[tuple[Path, Stamp]]:
    """Finished requests of a stage with their directories, the last one first; no damaged stamps."""
    found = ((path.parent, _whole(path)) for path in (workspace.stages / stage.name).glob(f"*/{STAMP_FILE}"))
    whole = [(directory, stamp) for directory, stamp in found if stamp is not None]
    return sorted(whole, key=lambda pair: pair[1].started, reverse=True)


def newest_stamp(workspace: Workspace, stage: Stage) -> Stamp | None:
    """The stamp of the newest request that a stage finished, None where there is none any more."""
    directory = newest_directory(workspace, stage)
    return None if directory is None else _whole(directory / STAMP_FILE)


def newest_directory(workspace: Workspace, stage: Stage) -> Path | None:
    """The directory of the newest request that a stage finished; None where it has finished none.

    Raises:
        DamagedFile: the file that names it does not.
    """
    pointer = _newest(workspace, stage)
    return pointer.parent / read_model(pointer, Newest).fingerprint if pointer.exists() else None


def _newest(workspace: Workspace, stage: Stage) -> Path:
    return workspace.stages / stage.name / "newest.json"


def why_stale(workspace: Workspace, stage: Stage, request: dict[str, Any]) -> str:
    """What differs between a request and the newest one that this stage finished, in a few words."""
    if not _newest(workspace, stage).exists():
        return FIRST_RUN
    before = newest_stamp(workspace, stage)
    if before is None:
        return "its last result is gone or damaged"
    if before.fingerprint == request_fingerprint(stage, request):
        if before.stopped_after is not None:
            return f"it goes on after step {before.stopped_after}, where it had been stopped and kept"
        if undecided := before.outcome.counts.get("undecided"):
            return f"{undecided} files could not be judged in its last run"
        return "outputs of its last run are missing"
    changed = sorted(_differences(before.request, request))
    return (
        "changed: " + ", ".join(changed)
        if changed
        else "the code of the stage, or of one it reads, has a new version"
    )


def _differences(before: Any, now: Any, at: str = "") -> set[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = before.keys() | now.keys()
        pairs = (_differences(before.get(k), now.get(k), f"{at}.{k}" if at else str(k)) for k in keys)
        return set().union(*pairs)
    if before == now:
        return set()
    values = f" {before} -> {now}" if isinstance(before, int | float) and isinstance(now, int | float) else ""
    return {f"{at}{values}"}


def write_manifest(run: Path, entry: ManifestEntry) -> None:
    """Note in a run's folder what it had of a stage."""
    write_json(run / f"{entry.stage}.json", entry.model_dump(mode="json"))


def read_manifest(run: Path, stage: Stage) -> ManifestEntry | None:
    """A stage's entry in a run's folder; None where the run has not had the stage."""
    path = run / f"{stage.name}.json"
    return read_model(path, ManifestEntry) if path.exists() else None


def read_stamp(workspace: Workspace, entry: ManifestEntry) -> Stamp:
    """The stamp that a run's entry names.

    Raises:
        FileNotFoundError, DamagedFile: as `load_stamp`.
    """
    return load_stamp(workspace.root / entry.stamp)
