"""The index: key -> record, as a log of numbered, immutable segments. It alone decides that a thing exists.

Data is written first; the segment that names it is published afterwards, atomically. A crash between the
two leaves bytes that nothing refers to, never a record without its bytes.

A segment is a JSON object of records; `null` says that a key exists no more. One that holds `BASE` replaces
all segments before it, which may then be deleted. A number is taken once: of two writers who both believe
to be alone, one learns that it is not, and commits nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ltxcore.store.blobs import Blobs

Record = dict[str, Any]
BASE = "base"
SEGMENT = re.compile(r".*/(\d{8})[^/]*\.json")


class Overtaken(RuntimeError):
    """Another writer has committed since this one looked: it lost its lock, or never had it."""


class Index:
    """All segments of one folder, read once; later segments win."""

    def __init__(
        self, blobs: Blobs, folder: str, on_record: Callable[[str, Record], None] | None = None
    ) -> None:
        """`on_record` is told each record as it is taken in."""
        self._blobs = blobs
        self._folder = folder
        self._on_record = on_record
        self._read: set[str] = set()
        self._records: dict[str, Record] = {}
        self.base: Record = {}
        """What the newest compaction noted."""
        self.refresh()

    def refresh(self) -> None:
        """Take in the segments that others have published since."""
        while True:
            names = [name for name in self._blobs.list(self._folder) if SEGMENT.fullmatch(name)]
            try:
                found = self._blobs.read_all([name for name in names if name not in self._read])
            except FileNotFoundError:
                continue  # Compacted between the listing and the reading; the base names everything.
            break
        for name, data in found.items():
            self._take_in(name, json.loads(data))

    def _take_in(self, name: str, segment: dict[str, Record | None]) -> None:
        self._read.add(name)
        base = segment.pop(BASE, None)
        if base is not None:
            self._records.clear()
            self.base = base
        for key, record in segment.items():
            if record is None:
                self._records.pop(key, None)
                continue
            self._records[key] = record
            if self._on_record is not None:
                self._on_record(key, record)

    @property
    def newest(self) -> int:
        """The number of the newest segment that was read, 0 where there is none."""
        return max((_number(name) for name in self._read), default=0)

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

    def commit(self, records: Mapping[str, Record | None], after: int | None = None) -> None:
        """Publish records in one segment: all of them become visible, or none. None removes a key.

        Args:
            after: the `newest` that the records were made for; by default whatever is newest now.

        Raises:
            Overtaken: somebody else has committed since, or at the same moment.
        """
        if records:
            self._publish(dict(records), after)

    def compact(self, changes: Mapping[str, Record], note: Record, after: int) -> None:
        """Publish all records in one segment, with the changed ones in place, and drop the older segments.

        Args:
            note: found as `base` by whoever reads the index.

        Raises:
            Overtaken: somebody else has committed after the segment `after`.
        """
        old = list(self._read)
        self._publish({BASE: note, **self._records, **changes}, after)
        self._blobs.delete(old)
        self._read.difference_update(old)

    def _publish(self, segment: dict[str, Record | None], after: int | None) -> None:
        if after is None:
            self.refresh()
            after = self.newest
        name = f"{self._folder}/{after + 1:08d}.json"
        text = json.dumps(segment, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
        try:
            self._blobs.create(name, text.encode())
        except FileExistsError as error:
            raise Overtaken(
                f"{name} in {self._blobs.url} was committed by another writer meanwhile; "
                "nothing of this batch was, so that it can be tried again"
            ) from error
        self._take_in(name, dict(segment))


def _number(segment: str) -> int:
    match = SEGMENT.fullmatch(segment)
    if match is None:
        raise ValueError(f"{segment} is no segment of an index")
    return int(match[1])
