"""The disks that a run writes to, and whether they take it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ltxcore.jobs.estimate.figures import StageEstimate
from ltxcore.pipeline.base.contract import AUDIO, FRAMES, LATENTS, TEXT
from ltxcore.store.workspace import Workspace

INTO_THE_STORE: Final = (AUDIO, LATENTS, TEXT, FRAMES)
"""Stages whose output is in the store; that of the others is in the workspace."""


@dataclass(frozen=True)
class Disk:
    """A disk, what a run would write to it, and what is free there."""

    place: Path
    needed_bytes: int
    free_bytes: int
    writable: bool = True

    @property
    def problem(self) -> str | None:
        """Why a run would fail here."""
        if not self.writable and self.needed_bytes:
            return f"{self.place} cannot be written; its disk is read-only, or another user's"
        if self.needed_bytes > self.free_bytes:
            return (
                f"{self.needed_bytes / 1e9:.1f} GB would be written to {self.place}, and "
                f"{self.free_bytes / 1e9:.1f} GB are free there"
            )
        return None


def disks(workspace: Workspace, stages: Sequence[StageEstimate]) -> tuple[Disk, ...]:
    """The disks of the workspace and of a local store; one where both are on the same."""
    stored = sum(stage.disk_bytes or 0 for stage in stages if stage.stage in INTO_THE_STORE)
    kept = sum(stage.disk_bytes or 0 for stage in stages if stage.stage not in INTO_THE_STORE)
    store = workspace.store.local
    if store is None:
        return (_disk(workspace.root, kept),)
    apart = _disk(workspace.root, kept), _disk(store, stored)
    # A part of a disk may be mounted read-only.
    if device(store) == device(workspace.root) and apart[0].writable == apart[1].writable:
        return (_disk(workspace.root, kept + stored),)
    return apart


def device(path: Path) -> int:
    """The number of the disk that a path is on, or will be on."""
    return _existing(path).stat().st_dev


def _disk(place: Path, needed_bytes: int) -> Disk:
    there = _existing(place)
    return Disk(place, needed_bytes, shutil.disk_usage(there).free, os.access(there, os.W_OK))


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())
