"""The index: key -> record, as a log of numbered, immutable segments. It alone decides that a thing exists.

Data is written first; the segment that names it is published afterwards, atomically. A crash between the
two leaves bytes that nothing refers to, never a record without its bytes.

In a segment, `null` says that a key exists no more. One with the note of a compaction replaces all segments
before it, which may then be deleted. A number is taken once: of two writers who both believe to be alone,
one learns that it is not, and commits nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from ltxcore.store.blobs import Blobs
from ltxcore.store.segment import Record, Segment, decode, encode

SEGMENT = re.compile(r".*/(\d{8})[^/]*\.json")
FOLDERS: Final[Mapping[str, tuple[str, ...]]] = {
    "media": ("media/files", "media/probes"),
    "audio": ("audio/index",),
    "text": ("text/index",),
    "latents": ("latents/index",),
}
"""Part of a store -> its indexes."""


class Overtaken(RuntimeError):
    """Another writer has committed since this one looked: it lost its lock, or never had it."""


class IndexDamaged(RuntimeError):
    """A segment is not what was written."""


class Index:
    """All segments of one folder, read once; later segments win."""

    def __init__(
        self, blobs: Blobs, folder: str, on_record: Callable[[str, Record], None] | None = None
    ) -> None:
        """Read what is there; `on_record` is told each record as it is taken in.

        Raises:
            IndexDamaged: a segment is not what was written.
        """
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
            names = [name for name in _segments(self._blobs, self._folder) if name not in self._read]
            try:
                found = self._blobs.read_all(names)
            except FileNotFoundError:
                continue  # Compacted between the listing and the reading; the base names everything.
            break
        for name, data in found.items():
            segment = decode(data)
            if not segment.whole:
                raise IndexDamaged(
                    f"{name} in {self._blobs.url} is not what was written, or was written by an earlier "
                    "version of the store; `ltx2 verify --repair` keeps what is whole of it, and the next "
                    "run makes the rest again"
                )
            self._take_in(name, segment)

    def _take_in(self, name: str, segment: Segment) -> None:
        self._read.add(name)
        if segment.base is not None:
            self._records.clear()
            self.base = segment.base
        for key, record in segment.records.items():
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
            self._publish(Segment(dict(records), None, whole=True), after)

    def compact(self, changes: Mapping[str, Record], note: Record, after: int) -> None:
        """Publish all records in one segment, with the changed ones in place, and drop the older segments.

        Args:
            note: found as `base` by whoever reads the index.

        Raises:
            Overtaken: somebody else has committed after the segment `after`.
        """
        old = list(self._read)
        self._publish(Segment({**self._records, **changes}, note, whole=True), after)
        self._blobs.delete(old)
        self._read.difference_update(old)

    def _publish(self, segment: Segment, after: int | None) -> None:
        if after is None:
            self.refresh()
            after = self.newest
        name = f"{self._folder}/{after + 1:08d}.json"
        try:
            self._blobs.create(name, encode(segment.records, segment.base))
        except FileExistsError as error:
            raise Overtaken(
                f"{name} in {self._blobs.url} was committed by another writer meanwhile; "
                "nothing of this batch was, so that it can be tried again"
            ) from error
        self._take_in(name, segment)


def damaged(blobs: Blobs, part: str) -> dict[str, Segment]:
    """The segments of a part that are not what was written, each with what is whole of it."""
    names = [name for folder in FOLDERS[part] for name in _segments(blobs, folder)]
    found = {name: decode(data) for name, data in blobs.read_all(names).items()}
    return {name: segment for name, segment in found.items() if not segment.whole}


def mend(blobs: Blobs, part: str) -> int:
    """Write the damaged segments of a part anew with what is whole of them; returns how many there were.

    Needs the caller to hold the writer's lock of the part. A removal that is lost brings back a record whose
    bytes are gone or are another's, which reading and `verify` find.
    """
    found = damaged(blobs, part)
    for name, segment in found.items():
        blobs.write(name, encode(segment.records, segment.base))
    return len(found)


def _segments(blobs: Blobs, folder: str) -> list[str]:
    return [name for name in blobs.list(folder) if SEGMENT.fullmatch(name)]


def _number(segment: str) -> int:
    match = SEGMENT.fullmatch(segment)
    if match is None:
        raise ValueError(f"{segment} is no segment of an index")
    return int(match[1])
