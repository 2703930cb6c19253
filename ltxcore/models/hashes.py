"""Hashes of model files, computed once and remembered until the file changes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltxcore.models.tensor_file import StoredTensor
from ltxcore.models.versions import read_json
from ltxcore.store.fingerprint import canonical, hash_file, stat_key
from ltxcore.store.locks import exclusive

FINGERPRINTS = "fingerprints.json"
_PIECE_BYTES = 8 << 20


@dataclass(frozen=True)
class _Wanted:
    key: str
    file: Path
    tensors: Mapping[str, StoredTensor] | None = None
    """What of the file is hashed; None for all of it."""

    def compute(self) -> str:
        return hash_file(self.file) if self.tensors is None else _hash_tensors(self.file, self.tensors)


def remembered_hashes(files: Iterable[Path], models_dir: Path) -> dict[Path, str]:
    """sha256 of each file, from `fingerprints.json` where size, mtime and inode are as remembered."""
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


def _hash_tensors(file: Path, tensors: Mapping[str, StoredTensor]) -> str:
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
    learnt: dict[str, dict[str, Any]] = {}
    for item in wanted:
        stat = stat_key(item.file)
        known = remembered.get(item.key)
        if known is None or known["stat"] != stat:
            known = learnt[item.key] = {"stat": stat, "sha256": item.compute()}
        hashes[item.key] = known["sha256"]
    if learnt:
        with exclusive(models_dir / f".{FINGERPRINTS}.lock", "remembering hashes of model files"):
            _write_memory(models_dir, _read_memory(models_dir) | learnt)
    return hashes


def _read_memory(models_dir: Path) -> dict[str, Any]:
    path = models_dir / FINGERPRINTS
    return read_json(path) if path.is_file() else {}


def _write_memory(models_dir: Path, memory: dict[str, Any]) -> None:
    path = models_dir / FINGERPRINTS
    temporary = models_dir / f".{FINGERPRINTS}.{os.getpid()}"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(memory, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
