"""The hashes of a directory's files: a manifest that is written last, and checked before they are used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from ltxcore.store.blobs import DamagedFile, read_json, write_json
from ltxcore.store.fingerprint import hash_file

MANIFEST: Final = "manifest.json"
GONE: Final = "is gone"
CHANGED: Final = "is not what was written"
SET_ASIDE: Final = ".damaged"
"""Ends the name of what was damaged and is kept out of the way."""

_HASHES: Final = TypeAdapter(dict[str, str])


@dataclass(frozen=True)
class FileFault:
    """A file that is missing, damaged or unreadable."""

    file: Path
    fault: str
    readable: bool = True
    """False where the disk would not give the file: trouble that may pass, and no verdict on its content."""

    @classmethod
    def unreadable(cls, file: Path, error: OSError) -> FileFault:
        """The message for a file that the disk cannot read."""
        return cls(file, f"cannot be read ({error.strerror or error})", readable=False)

    def __str__(self) -> str:
        return f"{self.file} {self.fault}"


def write_hashes(directory: Path, files: Iterable[Path]) -> None:
    """Write the manifest of a directory: the sha256 of each of these files, which lie directly in it."""
    write_json(directory / MANIFEST, {file.name: hash_file(file) for file in files})


def read_hashes(directory: Path) -> dict[str, str]:
    """The sha256 of each file of a directory, by its name.

    Raises:
        FileNotFoundError: there is no manifest.
        DamagedFile: it is not what was written.
    """
    path = directory / MANIFEST
    try:
        hashes = _HASHES.validate_python(read_json(path))
    except ValidationError as error:
        raise DamagedFile(path, error) from error
    if outside := [name for name in hashes if Path(name).name != name]:
        raise DamagedFile(path, f"{outside[0]!r} is not the name of a file beside it")
    return hashes


def faults_in(directory: Path) -> list[FileFault]:
    """Faults of the files of a directory with a manifest, including the manifest."""
    path = directory / MANIFEST
    try:
        hashes = read_hashes(directory)
    except FileNotFoundError:
        return [FileFault(path, GONE)]
    except DamagedFile:
        return [FileFault(path, CHANGED)]
    except OSError as error:
        return [FileFault.unreadable(path, error)]
    found = [fault_of(directory / name, sha256) for name, sha256 in hashes.items()]
    return [fault for fault in found if fault is not None]


def fault_of(file: Path, sha256: str) -> FileFault | None:
    """The fault of a file whose hash is known; None if it is intact."""
    try:
        whole = hash_file(file) == sha256
    except FileNotFoundError:
        return FileFault(file, GONE)
    except OSError as error:
        return FileFault.unreadable(file, error)
    return None if whole else FileFault(file, CHANGED)
