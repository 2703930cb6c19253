"""The index: key -> record, as a log of immutable segments. It alone decides that a thing exists.

Data is written first; the segment that names it is published afterwards, atomically. A crash between the
two leaves bytes that nothing refers to, never a record without its bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ltxcore.store.blobs import Blobs
from ltxcore.store.fingerprint import fingerprint

Record = dict[str, Any]


class Index:
    """All segments of one folder, read once; later segments win."""

    def __init__(self, blobs: Blobs, folder: str) -> None:
        self._blobs = blobs
        self._folder = folder
        self._read: set[str] = set()
        self._records: dict[str, Record] = {}
        self.refresh()

    def refresh(self) -> None:
        """Take in the segments that others have published since."""
        for name in self._blobs.list(self._folder):
            if name.endswith(".json") and name not in self._read:
                self._records.update(json.loads(self._blobs.read(name)))
                self._read.add(name)

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def __len__(self) -> int:
        return len(self._records)

    def get(self, key: str) -> Record | None:
        return self._records.get(key)

    def __getitem__(self, key: str) -> Record:
        return self._records[key]

    def items(self) -> Iterable[tuple[str, Record]]:
        return self._records.items()

    def commit(self, records: Mapping[str, Record]) -> None:
        """Publish records in one segment: all of them become visible, or none."""
        if not records:
            return
        self.refresh()
        newest = max((int(_number(name)) for name in self._read), default=0)
        name = f"{self._folder}/{newest + 1:08d}-{fingerprint(dict(records))[:12]}.json"
        text = json.dumps(dict(records), ensure_ascii=False, separators=(",", ":"), sort_keys=True)
        self._blobs.write(name, text.encode())
        self._read.add(name)
        self._records.update(records)


def _number(segment: str) -> str:
    return segment.rsplit("/", 1)[-1].split("-", 1)[0]
