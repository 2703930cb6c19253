"""Sweeping a workspace: runs, stage directories, snapshots and references that nobody needs, then the store.

Kept are: runs that are pinned, young, going on, or the newest; the stages' directories that kept runs name,
that are young, or the newest of their stage; the snapshots that belong to them; and of the store what they
and all other workspaces that share it stand on.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ltxcore.pipeline.base.contract import STAGES
from ltxcore.pipeline.base.stamp import load_stamp, newest_directory, read_manifest
from ltxcore.store.blobs import TEMPORARY, read_model, walk_files, write_json
from ltxcore.store.lease import writing
from ltxcore.store.locks import exclusive, is_held
from ltxcore.store.refs import Ref, Refs, needed, workspace_of
from ltxcore.store.sweep import LEFTOVER_S, PartSweep, leftovers, plan_part, sweep_part
from ltxcore.store.workspace import Named, Workspace, read_snapshot

PARTS = ("audio", "text", "latents")
PIN = "pinned.json"
DAY_S = 86400.0


class UnknownRun(LookupError):
    """A name that no run of the workspace has."""


@dataclass
class Sweep:
    """What can be deleted, or was."""

    runs: list[Path] = field(default_factory=list)
    stages: list[Path] = field(default_factory=list)
    snapshots: list[Path] = field(default_factory=list)
    temporary: list[Path] = field(default_factory=list)
    refs: list[str] = field(default_factory=list)
    remote_temporary: list[str] = field(default_factory=list)
    parts: list[PartSweep] = field(default_factory=list)
    bytes: int = 0
    others: dict[str, str] = field(default_factory=dict)
    """Id -> place of the other workspaces whose needs were honoured."""

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to delete."""
        swept = (self.runs, self.stages, self.snapshots, self.temporary, self.refs, self.remote_temporary)
        return not any(swept) and not any(part.keys or part.unnamed for part in self.parts)


def pin(workspace: Workspace, run: str, keep: bool = True) -> None:
    """Keep a run and all that it needs in this and every later sweep, or no longer.

    Raises:
        UnknownRun: the workspace has no such run.
    """
    folder = workspace.run(run)
    if not folder.is_dir():
        known = ", ".join(sorted(p.name for p in _folders(workspace.runs))) or "none"
        raise UnknownRun(f"{workspace.root} has no run {run!r}; it has: {known}")
    if keep:
        write_json(folder / PIN, {"pinned_s": time.time()})
    else:
        (folder / PIN).unlink(missing_ok=True)


def plan(workspace: Workspace, older_than_days: float, forget: Collection[str] = ()) -> Sweep:
    """What a sweep would take. Changes nothing and needs no lock."""
    before_s = _before_s(workspace, older_than_days)
    sweep, keys = _plan_workspace(workspace, before_s, forget)
    blobs = workspace.store
    sweep.parts = [plan_part(blobs, part, keys, before_s) for part in PARTS]
    sweep.bytes += sum(part.bytes for part in sweep.parts)
    return sweep


def apply(
    workspace: Workspace,
    older_than_days: float,
    forget: Collection[str] = (),
    on_wait: Callable[[str], None] | None = None,
) -> Sweep:
    """Take away what `plan` names, while no other process writes the store."""
    blobs = workspace.store
    with ExitStack() as held:
        # `refs` last: a stage that starts asks for it first, and must not wait for an encode to end.
        purpose = f"gc of {workspace.root}"
        for part in (*PARTS, "refs"):
            held.enter_context(writing(blobs, part, purpose, on_wait=on_wait))

        def needed_now() -> dict[str, set[str]]:
            return needed(list(Refs(blobs).load().values()))

        # A lease of an object store can be lost; no run of this workspace begins before the sweep ends.
        held.enter_context(exclusive(workspace.sweep_lock, purpose, on_wait=on_wait))
        before_s = _before_s(workspace, older_than_days)
        sweep, _ = _plan_workspace(workspace, before_s, forget)
        for folder in (*sweep.stages, *sweep.runs):
            shutil.rmtree(folder)
        for file in (*sweep.snapshots, *sweep.temporary):
            file.unlink(missing_ok=True)
        blobs.delete(sweep.remote_temporary)
        Refs(blobs).drop(sweep.refs)
        sweep.parts = [sweep_part(blobs, part, needed_now, before_s) for part in PARTS]
    sweep.bytes += sum(part.bytes for part in sweep.parts)
    return sweep


def _plan_workspace(
    workspace: Workspace, before_s: float, forget: Collection[str]
) -> tuple[Sweep, dict[str, set[str]]]:
    """What can go of the workspace, and the keys of the store that are needed then."""
    sweep = Sweep()
    kept_runs = _kept_runs(workspace, before_s)
    sweep.runs = [run for run in _folders(workspace.runs) if run not in kept_runs]
    kept_stages = _kept_stages(workspace, kept_runs, before_s)
    sweep.stages = [
        directory
        for stage in STAGES
        for directory in _folders(workspace.stages / stage.name)
        if directory not in kept_stages
    ]
    sweep.snapshots = _snapshots_to_go(workspace, kept_stages, before_s)
    now = time.time()
    for folder in (workspace.runs, workspace.stages, workspace.snapshots):
        for path, entry in walk_files(folder):
            if path.name.endswith(TEMPORARY) and now - entry.modified_s > LEFTOVER_S:
                sweep.temporary.append(path)
    sweep.remote_temporary = list(leftovers(workspace.store))
    sweep.bytes = sum(_size(path) for path in (*sweep.stages, *sweep.runs, *sweep.snapshots))
    kept_refs: list[Ref] = []
    for name, ref in Refs(workspace.store).load().items():
        owner = workspace_of(name)
        kept = workspace.root / ref.directory in kept_stages
        if owner == workspace.id:
            # A stage tells its needs before it has a directory.
            gone = not kept and not _going_on(workspace)
        else:
            # A moved workspace counts as another one, and needs what it recorded before.
            gone = owner in forget and not kept
            if owner not in forget:
                sweep.others[owner] = ref.workspace
        if gone:
            sweep.refs.append(name)
        else:
            kept_refs.append(ref)
    return sweep, needed(kept_refs)


def _before_s(workspace: Workspace, older_than_days: float) -> float:
    """When something must have been written to go: before every run that goes on, which may be making it.

    A moment, not an age: a sweep takes time, in which everything grows older.
    """
    started = [workspace.run_lock(run).stat().st_mtime for run in _going_on(workspace)]
    return min([time.time() - older_than_days * DAY_S, *started])


def _going_on(workspace: Workspace) -> set[Path]:
    """The runs that some process works on."""
    return {run for run in _folders(workspace.runs) if is_held(workspace.run_lock(run))}


def _kept_runs(workspace: Workspace, before_s: float) -> set[Path]:
    newest = workspace.newest_run
    return _going_on(workspace) | {
        run
        for run in _folders(workspace.runs)
        if run.name == newest or (run / PIN).exists() or _written_s(run) >= before_s
    }


def _kept_stages(workspace: Workspace, runs: Collection[Path], before_s: float) -> set[Path]:
    kept: set[Path] = set()
    for stage in STAGES:
        for run in runs:
            entry = read_manifest(run, stage)
            if entry is not None:
                kept.add((workspace.root / entry.stamp).parent)
        if (newest := newest_directory(workspace, stage)) is not None:
            kept.add(newest)
        kept.update(
            directory
            for directory in _folders(workspace.stages / stage.name)
            if _written_s(directory) >= before_s or is_held(directory / "lock")
        )
    # Held-out clips are judged for good in the state in which they were frozen.
    return kept | set(_folders(workspace.champions))


def _snapshots_to_go(workspace: Workspace, stages: Collection[Path], before_s: float) -> list[Path]:
    """Snapshots that are old, not the latest, and of whose data no kept stage has a result."""
    latest = workspace.latest_file
    named: set[Any] = {read_model(latest, Named).id} if latest.exists() else set()
    data: set[str] = set()
    for directory in stages:
        if (directory / "stage.json").exists():
            stamp = load_stamp(directory / "stage.json")
            named.add(stamp.outcome.facts.get("snapshot"))
            data.add(stamp.request.get("data", ""))
    going = []
    for file in workspace.snapshot_files():
        if file.stem in named or file.stat().st_mtime >= before_s:
            continue
        if read_snapshot(file).data_id not in data:
            going.append(file)
    return going


def _folders(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.is_dir()) if directory.is_dir() else []


def _written_s(folder: Path) -> float:
    """When anything in a folder was last written."""
    return max((entry.modified_s for _, entry in walk_files(folder)), default=folder.stat().st_mtime)


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(entry.size_bytes for _, entry in walk_files(path))
