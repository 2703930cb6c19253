"""Stamps: the record, written last, that a stage did its work for one request; and the manifest of a run."""

from __future__ import annotations

import logging
import platform
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import Field

from ltxcore.config.base import Strict
from ltxcore.memory.measure import measure_peaks
from ltxcore.stages.contract import Stage, versions
from ltxcore.store.blobs import DamagedFile, read_json, read_model, write_json
from ltxcore.store.fingerprint import fingerprint, hash_file
from ltxcore.store.workspace import Workspace

logger = logging.getLogger(__name__)


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


class ManifestEntry(Strict):
    """What one run of the pipeline had of one stage: the stamp it made, or the one it found."""

    stage: str
    stamp: str
    up_to_date: bool
    seconds: float
    process: int
    counts: dict[str, int]
    why: str


def request_fingerprint(stage: Stage, request: dict[str, Any]) -> str:
    return fingerprint({"stage": stage.name, "versions": versions(stage), "request": request})


def stage_directory(workspace: Workspace, stage: Stage, request: dict[str, Any]) -> Path:
    """Where a stage keeps what belongs to one request alone."""
    return workspace.stages / stage.name / request_fingerprint(stage, request)[:16]


def find_stamp(workspace: Workspace, stage: Stage, request: dict[str, Any]) -> Stamp | None:
    """The stamp of a request if it is whole and every file that it names still has its size."""
    stamp = _whole(stage_directory(workspace, stage, request) / "stage.json")
    if stamp is None or not all(_in_place(workspace, file) for file in stamp.outcome.files):
        return None
    return stamp


def _whole(path: Path) -> Stamp | None:
    """A stamp, or None where there is none that stands for anything: the stage then writes it again."""
    try:
        return read_model(path, Stamp)
    except FileNotFoundError:
        return None
    except DamagedFile as error:
        logger.warning("%s", error)
        return None


def _in_place(workspace: Workspace, file: OutputFile) -> bool:
    path = workspace.root / file.path
    return path.is_file() and path.stat().st_size == file.size_bytes


def output_file(workspace: Workspace, path: Path) -> OutputFile:
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

    Unless it is the stage's `newest`, later requests are not told by what they differ from it.
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
    write_json(directory / "stage.json", stamp.model_dump(mode="json"))
    if newest:
        write_json(_newest(workspace, stage), {"fingerprint": directory.name})
    return stamp


def newest_stamp(workspace: Workspace, stage: Stage) -> Stamp | None:
    """The stamp of the newest request that a stage finished, None where there is none any more."""
    pointer = _newest(workspace, stage)
    if not pointer.exists():
        return None
    return _whole(pointer.parent / read_json(pointer)["fingerprint"] / "stage.json")


def _newest(workspace: Workspace, stage: Stage) -> Path:
    return workspace.stages / stage.name / "newest.json"


def why_stale(workspace: Workspace, stage: Stage, request: dict[str, Any]) -> str:
    """What differs between a request and the newest one that this stage finished, in a few words."""
    if not _newest(workspace, stage).exists():
        return "first run"
    before = newest_stamp(workspace, stage)
    if before is None:
        return "its last result is gone or damaged"
    if before.fingerprint == request_fingerprint(stage, request):
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
    told = f" {before} -> {now}" if isinstance(before, int | float) and isinstance(now, int | float) else ""
    return {f"{at}{told}"}


def write_manifest(run: Path, entry: ManifestEntry) -> None:
    """Note in a run's folder what it had of a stage."""
    write_json(run / f"{entry.stage}.json", entry.model_dump(mode="json"))


def read_manifest(run: Path, stage: Stage) -> ManifestEntry | None:
    path = run / f"{stage.name}.json"
    return read_model(path, ManifestEntry) if path.exists() else None


def read_stamp(workspace: Workspace, entry: ManifestEntry) -> Stamp:
    return read_model(workspace.root / entry.stamp, Stamp)
