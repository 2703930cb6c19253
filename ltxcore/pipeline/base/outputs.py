"""Checks outputs of stages against their recorded hash before they are used.

A stage is up to date if its files exist with their sizes, which is cheap to check. Code that renders with a
file, copies it or publishes it reads all of it anyway, and checks the hash here first.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ltxcore.pipeline.base.stamp import OutputFile
from ltxcore.store.file_hashes import FileFault, fault_of, faults_in
from ltxcore.store.workspace import Workspace

BASE_PREFIX = "base-"
"""Begins the names of the directories of the base's renderings, which have no stamp."""
REMEDY = "`ltx2 verify --repair` sets it aside, and the next run makes it again"


class DamagedOutput(RuntimeError):
    """A file that a stage left is gone or is not what was written; names each such file."""

    def __init__(self, faults: Iterable[FileFault]) -> None:
        listed = "\n".join(map(str, faults))
        super().__init__(f"{listed}\n{REMEDY}")


def faults_of(workspace: Workspace, files: Iterable[OutputFile]) -> list[FileFault]:
    """Faults of the files that a stamp names."""
    found = (fault_of(workspace.root / file.path, file.sha256) for file in files)
    return [fault for fault in found if fault is not None]


def require_whole(workspace: Workspace, files: Iterable[OutputFile]) -> None:
    """Read files that a stamp names and compare each with its hash.

    Raises:
        DamagedOutput: one is gone or is not what was written.
        OSError: one cannot be read.
    """
    _refuse(faults_of(workspace, files))


def require_whole_directory(directory: Path) -> None:
    """The same for the files of a directory that has a manifest.

    Raises:
        DamagedOutput, OSError: as `require_whole`.
    """
    _refuse(faults_in(directory))


def _refuse(faults: list[FileFault]) -> None:
    if unreadable := [fault for fault in faults if not fault.readable]:
        raise OSError("\n".join(map(str, unreadable)))
    if faults:
        raise DamagedOutput(faults)
