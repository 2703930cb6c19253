"""Content keys: one canonical JSON form, one hash, one way to derive seeds."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEED_BITS = 63


def canonical(data: Any) -> str:
    """The one JSON text of plain data: sorted keys, no spaces, no NaN.

    Raises:
        TypeError, ValueError: the data is not plain JSON.
    """
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(data: Any) -> str:
    """sha256 of the canonical JSON, as 64 hex digits. Names of files may hold bytes that are not UTF-8."""
    return hashlib.sha256(canonical(data).encode("utf-8", "surrogateescape")).hexdigest()


def derive_seed(*parts: str | int) -> int:
    """A seed in [0, 2^63) that depends on every part, e.g. (run seed, stage, step, what it is for)."""
    digest = hashlib.sha256(canonical(list(parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - SEED_BITS)


def hash_file(path: Path) -> str:
    """sha256 of a file's content, read in pieces of 8 MiB.

    Raises:
        OSError: it cannot be read, or is a pipe, socket or device, which might be read without end.
    """
    digest = hashlib.sha256()
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        while piece := file.read(8 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting for somebody who writes into a pipe."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """Identifies a file's content without reading it: size, modification time and change time.

    The kernel sets the change time whenever a file is written or its times are set, so that content changed
    in place under a kept size and modification time is seen. The inode is left out: drives that renumber
    inodes at every mount would have every file read again.
    """

    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileIdentity:
        """The identity of a file, or of what a link leads to.

        Raises:
            OSError: it is not there, or cannot be asked for.
        """
        return cls.of_stat(path.stat())

    @classmethod
    def of_stat(cls, info: os.stat_result) -> FileIdentity:
        """The identity from a stat result."""
        return cls(info.st_size, info.st_mtime_ns, info.st_ctime_ns)
