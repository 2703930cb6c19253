"""Bytes under a root, on a local disk or any fsspec URL, written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


class OutsideRoot(ValueError):
    """A name that would leave the root."""


class Blobs:
    """Named byte strings under one root.

    A write is visible whole or not at all: on a local disk by a temporary file, fsync and rename; on an
    object store because a PUT is atomic.
    """

    def __init__(self, root: str | Path) -> None:
        self.fs, self.root = fsspec.core.url_to_fs(str(root))
        self.url = str(root)

    @property
    def local(self) -> Path | None:
        """The root as a local path, or None where it is remote."""
        return Path(self.root) if isinstance(self.fs, LocalFileSystem) else None

    def path(self, name: str) -> str:
        """The full path of a name.

        Raises:
            OutsideRoot: the name is absolute or climbs out of the root.
        """
        parts = name.split("/")
        if name.startswith("/") or ".." in parts:
            raise OutsideRoot(f"{name!r} is not a name inside {self.url}")
        return f"{self.root}/{name}"

    def write(self, name: str, data: bytes) -> None:
        """Publish `data` under `name`, replacing what was there.

        Raises:
            OSError: the disk is full or the place cannot be written; nothing is left under `name` then.
        """
        if self.local is None:
            self.fs.pipe_file(self.path(name), data)
            return
        write_atomic(Path(self.path(name)), data)

    def read(self, name: str) -> bytes:
        """The bytes of `name`; FileNotFoundError where there are none."""
        data: bytes = self.fs.cat_file(self.path(name))
        return data

    def exists(self, name: str) -> bool:
        return bool(self.fs.exists(self.path(name)))

    def list(self, folder: str) -> list[str]:
        """Names of the files directly in a folder, sorted; none where there is no such folder."""
        self.fs.invalidate_cache(self.path(folder))
        try:
            entries = self.fs.ls(self.path(folder), detail=True)
        except FileNotFoundError:
            return []
        names = (e["name"].rsplit("/", 1)[-1] for e in entries if e["type"] == "file")
        return sorted(f"{folder}/{name}" for name in names)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a local file by way of a temporary one beside it, fsync and rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_json(path: Path, data: Any) -> None:
    """Write plain data as readable JSON, atomically."""
    write_atomic(path, (json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def sync_directory(directory: Path) -> None:
    """Make a rename in a directory survive a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
