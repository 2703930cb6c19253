"""The checksum of stored bytes, which every read is checked against.

XXH3 finds what disks and networks do to bytes, at the speed of memory: a store that hashed with sha256 wrote
at half the speed of plain files. Whoever can change the bytes on purpose can change the index, too.
"""

from __future__ import annotations

import xxhash


def checksum(data: bytes | memoryview) -> str:
    """The checksum of bytes, XXH3 of 128 bits in hex: two contents share one by one chance in 3e38."""
    return xxhash.xxh3_128_hexdigest(data)
