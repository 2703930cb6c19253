"""The checksum of what is stored, which every read is held against.

XXH3 finds what disks and networks do to bytes, at the speed of memory: a store that hashed with sha256 wrote
at half the speed of plain files. Whoever can change the bytes on purpose can change the index, too.
"""

from __future__ import annotations

from typing import Any

import xxhash

KIND = "xxh3_128"


def checksum(data: bytes | memoryview) -> dict[str, str]:
    """The checksum of bytes, as it is written into their record."""
    return {KIND: xxhash.xxh3_128_hexdigest(data)}


def unchanged(record: dict[str, Any], data: bytes | memoryview) -> bool:
    """Whether the bytes are those of a record, but for one change in 3e38."""
    return bool(xxhash.xxh3_128_hexdigest(data) == record[KIND])


def has_checksum(record: dict[str, Any]) -> bool:
    """Whether a record is of a version of the store that kept this one."""
    return KIND in record
