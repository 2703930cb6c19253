"""Compares every file that stages have left in a workspace with its hash, and sets aside what is damaged.

Stamps name the files of a stage. Checkpoints, the LoRAs of a training's steps and the base's renderings have
a manifest. The id of a snapshot is the hash of its content. Nothing here imports torch.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ltxcore.pipeline.base.contract import STAGES
from ltxcore.pipeline.base.outputs import BASE_PREFIX, faults_of
from ltxcore.pipeline.base.stamp import STAMP_FILE, load_stamp
from ltxcore.stages.train_lora.sample_steps import checkpoints, samples_waiting
from ltxcore.store.blobs import DamagedFile, sync_directory
from ltxcore.store.file_hashes import CHANGED, GONE, MANIFEST, SET_ASIDE, FileFault, faults_in
from ltxcore.store.locks import StoreBusy, exclusive, is_held
from ltxcore.store.workspace import Workspace, read_snapshot

LOCK: Final = "lock"


@dataclass(frozen=True)
class Damage:
    """A file of a stage that is gone, is not what was written, or cannot be read."""

    fault: FileFault
    whole: Path
    """What is set aside for it: the file, or the directory that is of no use without it."""

    @property
    def repairable(self) -> bool:
        """Whether setting it aside helps: what is gone is out of the way, what is unreadable may be whole."""
        return self.fault.readable and self.whole.exists()


@dataclass
class OutputCheck:
    """What a look at every output found."""

    checked: int = 0
    """Directories and snapshots."""
    damaged: list[Damage] = field(default_factory=list)
    at_work: list[Path] = field(default_factory=list)
    """Directories that a stage writes just now; they were passed over."""


def check_outputs(workspace: Workspace) -> OutputCheck:
    """Read every file that a stage has left and compare it with its hash. Needs no lock."""
    found = OutputCheck()
    for directory in _stage_directories(workspace):
        if is_held(directory / LOCK):
            found.at_work.append(directory)
            continue
        found.damaged += _damage_of(workspace, directory)
        found.checked += 1
    for file in workspace.snapshot_files():
        found.damaged += _damage_of(workspace, file)
        found.checked += 1
    return found


def set_aside(workspace: Workspace, damaged: Iterable[Damage]) -> dict[Path, Path]:
    """Rename what is damaged, so that the next run makes it again: the place it had -> where it is now.

    What a stage works on is left to it, and so is what was made again since it was looked at.
    """
    moved: dict[Path, Path] = {}
    places = {_place(workspace, damage.whole) for damage in damaged if damage.repairable}
    for place in sorted(places):
        if not _is_locked(place):
            moved |= _rename(_damage_of(workspace, place))
            continue
        try:
            with exclusive(place / LOCK, f"verify of {workspace.root}", wait_s=0):
                moved |= _rename(_damage_of(workspace, place))
        except StoreBusy:
            continue
    return moved


def _stage_directories(workspace: Workspace) -> list[Path]:
    folders = (workspace.stages / stage.name for stage in STAGES)
    found = (path for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_dir())
    return sorted(path for path in found if path.suffix != SET_ASIDE)


def _is_locked(place: Path) -> bool:
    """Whether a stage that works there holds a lock in it; a snapshot, or a rendering, is put there whole."""
    return place.is_dir() and not place.name.startswith(BASE_PREFIX)


def _place(workspace: Workspace, path: Path) -> Path:
    """The snapshot, or the stage's directory, that something damaged belongs to."""
    if path.parent == workspace.snapshots:
        return path
    stage, directory = path.relative_to(workspace.stages).parts[:2]
    return workspace.stages / stage / directory


def _damage_of(workspace: Workspace, place: Path) -> list[Damage]:
    """What is damaged of a snapshot, or of all that is in a stage's directory."""
    if place.parent == workspace.snapshots:
        return _of_snapshot(place)
    found = _of_stamp(workspace, place / STAMP_FILE)
    parts = [*checkpoints(place), *samples_waiting(place)]
    if place.name.startswith(BASE_PREFIX) and (place / MANIFEST).exists():
        # Without a manifest it is one that a crash has cut short, and is rendered again.
        parts.append(place)
    for part in sorted(parts):
        found += [Damage(fault, part) for fault in faults_in(part)]
    return found


def _of_stamp(workspace: Workspace, file: Path) -> list[Damage]:
    try:
        stamp = load_stamp(file)
    except FileNotFoundError:
        return []
    except DamagedFile:
        return [Damage(FileFault(file, CHANGED), file)]
    except OSError as error:
        return [Damage(FileFault.unreadable(file, error), file)]
    return [
        Damage(fault, fault.file)
        for fault in faults_of(workspace, stamp.outcome.files)
        # Set aside by an earlier look: the stage makes it again when it is asked for.
        if fault.fault != GONE or not aside(fault.file).exists()
    ]


def _of_snapshot(file: Path) -> list[Damage]:
    try:
        read_snapshot(file)
    except DamagedFile:
        return [Damage(FileFault(file, CHANGED), file)]
    except OSError as error:
        return [Damage(FileFault.unreadable(file, error), file)]
    return []


def _rename(damaged: Iterable[Damage]) -> dict[Path, Path]:
    moved = {}
    for whole in sorted({damage.whole for damage in damaged if damage.repairable}):
        moved[whole] = aside(whole)
        if moved[whole].is_dir():
            shutil.rmtree(moved[whole])
        whole.replace(moved[whole])
        sync_directory(whole.parent)
    return moved


def aside(path: Path) -> Path:
    """Where something damaged is put."""
    return path.with_name(f"{path.name}{SET_ASIDE}")
