"""Hashes of model files, computed once and remembered until the file changes."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from ltxcore.models.files.tensor_file import StoredTensor
from ltxcore.store.blobs import write_json
from ltxcore.store.fingerprint import FileIdentity, canonical, hash_file
from ltxcore.store.locks import exclusive

logger = logging.getLogger(__name__)

FINGERPRINTS = "fingerprints.json"
_PIECE_BYTES = 8 << 20


@dataclass(frozen=True)
class KnownHash:
    """The hash of a file, or of a part of it, and the file's identity when it was read."""

    identity: FileIdentity
    sha256: str


_MEMORY: Final = TypeAdapter(dict[str, KnownHash])


@dataclass(frozen=True)
class _Wanted:
    key: str
    file: Path
    tensors: Mapping[str, StoredTensor] | None = None
    """What of the file is hashed; None for all of it."""

    def compute(self) -> str:
        return hash_file(self.file) if self.tensors is None else hash_tensors(self.file, self.tensors)


def remembered_hashes(files: Iterable[Path], models_dir: Path) -> dict[Path, str]:
    """sha256 of each file, from `fingerprints.json` where the file's identity is as remembered."""
    by_file = {file: file.resolve() for file in files}
    hashes = _remembered([_Wanted(str(real), real) for real in by_file.values()], models_dir)
    return {file: hashes[str(real)] for file, real in by_file.items()}


def remembered_part(file: Path, part: str, tensors: Mapping[str, StoredTensor], models_dir: Path) -> str:
    """sha256 of some tensors of a file: names, types, shapes and bytes, remembered likewise.

    Where in the file they lie is left out, so the same VAE beside another transformer is the same VAE.
    """
    real = file.resolve()
    key = f"{real}#{part}"
    return _remembered([_Wanted(key, real, tensors)], models_dir)[key]


def hash_tensors(file: Path, tensors: Mapping[str, StoredTensor]) -> str:
    """sha256 of some tensors of a file: names, types, shapes and bytes.

    Raises:
        OSError: the file cannot be read, or ends before they do.
    """
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        for name in sorted(tensors):
            tensor = tensors[name]
            digest.update(canonical([name, tensor.dtype, tensor.shape]).encode())
            stream.seek(tensor.start)
            left = tensor.size_bytes
            while left:
                piece = stream.read(min(left, _PIECE_BYTES))
                if not piece:
                    raise OSError(f"{file} became shorter while it was read")
                digest.update(piece)
                left -= len(piece)
    return digest.hexdigest()


def _remembered(wanted: Iterable[_Wanted], models_dir: Path) -> dict[str, str]:
    remembered = _read_memory(models_dir)
    hashes: dict[str, str] = {}
    learnt: dict[str, KnownHash] = {}
    for item in wanted:
        identity = FileIdentity.of(item.file)
        known = remembered.get(item.key)
        if known is None or known.identity != identity:
            known = learnt[item.key] = KnownHash(identity=identity, sha256=item.compute())
        hashes[item.key] = known.sha256
    if learnt:
        with exclusive(models_dir / f".{FINGERPRINTS}.lock", "remembering hashes of model files"):
            _write_memory(models_dir, _read_memory(models_dir) | learnt)
    return hashes


def _read_memory(models_dir: Path) -> dict[str, KnownHash]:
    """What is remembered; nothing where the file is damaged, as it only saves reading."""
    try:
        return read_hashes(models_dir)
    except ValueError as error:
        logger.warning("%s is damaged and is written anew: %s", models_dir / FINGERPRINTS, error)
        return {}


def read_hashes(models_dir: Path) -> dict[str, KnownHash]:
    """All hashes that are remembered: the file, or `FILE#COMPONENT` of a combined one -> its hash.

    Raises:
        ValueError: `fingerprints.json` is damaged.
    """
    try:
        return _MEMORY.validate_json((models_dir / FINGERPRINTS).read_bytes())
    except FileNotFoundError:
        return {}


def _write_memory(models_dir: Path, memory: dict[str, KnownHash]) -> None:
    write_json(models_dir / FINGERPRINTS, {key: asdict(known) for key, known in memory.items()})
