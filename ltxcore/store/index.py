"""The index: key -> record, as a log of numbered, immutable segments. A value exists if and only if the index
has it.

Data is written first; the segment that names it is published afterwards, atomically. A crash between the
two leaves bytes that nothing refers to, never a record without its bytes.

In a segment, `null` says that a key exists no more. That of a compaction, a base, replaces all segments
before it, which may then be deleted. A number is taken once: of two writers who both believe to be alone,
one learns that it is not, and commits nothing. The numbers before a base are free again once they are
deleted, so a segment that turns up there counts for nothing, and who wrote it learns that it was overtaken.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, Generic, TypeVar

from ltxcore.store.blobs import Blobs
from ltxcore.store.records import FORMS, ForeignRecord, Form
from ltxcore.store.segment import Record, Segment, decode, encode

R = TypeVar("R")

SEGMENT = re.compile(r".*/(\d{8})[^/]*\.json")
FOLDERS: Final[Mapping[str, tuple[str, ...]]] = {
    "media": ("media/files", "media/probes"),
    "audio": ("audio/index",),
    "text": ("text/index",),
    "latents": ("latents/index",),
}
"""Part of a store -> its indexes."""
GOING = "going"
"""In a note: the keys that a sweep is about to remove."""


class Overtaken(RuntimeError):
    """Another writer has committed in the meantime: this one lost its lock, or never had it."""


class IndexDamaged(RuntimeError):
    """A segment is damaged."""


class Index(Generic[R]):
    """All segments of one folder, read once; later segments win."""

    def __init__(
        self, blobs: Blobs, folder: str, form: Form[R], on_record: Callable[[str, R], None] | None = None
    ) -> None:
        """Read all segments; `on_record` is called with each record.

        Raises:
            IndexDamaged: a segment is not what was written.
        """
        self._blobs = blobs
        self._folder = folder
        self._form = form
        self._on_record = on_record
        self._read: set[str] = set()
        self._records: dict[str, R] = {}
        self.note: Record = {}
        """What who tidied the store noted last."""
        self._base = 0
        """The number of the newest base."""
        self.refresh()

    def refresh(self) -> None:
        """Read the segments that others have published since."""
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
                raise self._damaged(name, "is not what was written")
            try:
                records = {k: None if r is None else self._form.read(r) for k, r in segment.records.items()}
            except ForeignRecord as error:
                raise self._damaged(name, f"holds {error}") from error
            self._take_in(name, records, segment.note, segment.is_base)

    def _damaged(self, name: str, what: str) -> IndexDamaged:
        return IndexDamaged(
            f"{name} in {self._blobs.url} {what}; `ltx2 verify --repair` keeps what is whole of it, and the "
            "next run makes the rest again"
        )

    def _take_in(
        self, name: str, records: Mapping[str, R | None], note: Record | None, is_base: bool
    ) -> None:
        self._read.add(name)
        if _number(name) < self._base:
            return
        if is_base:
            self._records.clear()
            self._base = _number(name)
        if note is not None:
            self.note = note
        for key, record in records.items():
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

    def get(self, key: str) -> R | None:
        """The record of a key; None where there is none."""
        return self._records.get(key)

    def __getitem__(self, key: str) -> R:
        return self._records[key]

    def items(self) -> Iterable[tuple[str, R]]:
        """Every key with its record."""
        return self._records.items()

    def commit(self, records: Mapping[str, R | None], after: int | None = None) -> None:
        """Publish records in one segment: all of them become visible, or none. None removes a key.

        Args:
            after: the `newest` that the records were made for; by default whatever is newest now.

        Raises:
            Overtaken: somebody else has committed since, or at the same moment.
        """
        if records:
            self._publish(records, after)

    def overtake(self, gone: Iterable[str], after: int, note: Record | None = None) -> None:
        """Remove keys, perhaps none, and invalidate every uncommitted writer that has read an older index.

        Files that no record names may be deleted only then: their writer may be suspended before its commit.

        Args:
            after: the `newest` at which nothing named the files.
            note: found as `note` by whoever reads the index.

        Raises:
            Overtaken: somebody has committed since, perhaps what names them.
        """
        self._publish(dict.fromkeys(gone), after, note)

    def keep(self, keys: Collection[str]) -> None:
        """Overtake a sweep that has noted that it will remove any of these keys, perhaps suspended since."""
        while not set(keys).isdisjoint(self.note.get(GOING, ())):
            rest = {name: value for name, value in self.note.items() if name != GOING}
            # Somebody else's commit overtakes the sweep as well.
            with suppress(Overtaken):
                self._publish({}, None, rest)
            self.refresh()

    def compact(self, changes: Mapping[str, R], note: Record, after: int) -> None:
        """Publish all records in one segment, with the changed ones in place, and drop the older segments.

        Args:
            note: found as `note` by whoever reads the index.

        Raises:
            Overtaken: somebody else has committed after the segment `after`.
        """
        old = list(self._read)
        self._publish({**self._records, **changes}, after, note, is_base=True)
        self._blobs.delete(old)
        self._read.difference_update(old)

    def _publish(
        self,
        records: Mapping[str, R | None],
        after: int | None,
        note: Record | None = None,
        *,
        is_base: bool = False,
    ) -> None:
        if after is None:
            self.refresh()
            after = self.newest
        name = f"{self._folder}/{after + 1:08d}.json"
        try:
            written = {k: None if r is None else self._form.write(r) for k, r in records.items()}
            self._blobs.create(name, encode(written, note, is_base=is_base))
        except FileExistsError as error:
            raise self._overtaken(name, "committed by another writer") from error
        self._take_in(name, records, note, is_base)
        self.refresh()
        # The number may have been free because a compaction has deleted the segment that had it.
        if self._base > after + 1:
            raise self._overtaken(name, "overtaken by a compaction")

    def _overtaken(self, name: str, how: str) -> Overtaken:
        return Overtaken(
            f"{name} in {self._blobs.url} was {how} meanwhile; nothing of this batch was, so that it can be "
            "tried again"
        )


def damaged(blobs: Blobs, part: str) -> dict[str, Segment]:
    """The damaged segments of a part, each with its intact records."""
    found: dict[str, Segment] = {}
    for folder in FOLDERS[part]:
        for name, data in blobs.read_all(_segments(blobs, folder)).items():
            segment = _readable(decode(data), FORMS[folder])
            if not segment.whole:
                found[name] = segment
    return found


def _readable(segment: Segment, form: Form[Any]) -> Segment:
    """A segment without records that this version cannot read."""
    known = {key: record for key, record in segment.records.items() if _is_known(record, form)}
    return replace(segment, records=known, whole=segment.whole and len(known) == len(segment.records))


def _is_known(record: Record | None, form: Form[Any]) -> bool:
    try:
        if record is not None:
            form.read(record)
    except ForeignRecord:
        return False
    return True


def mend(blobs: Blobs, part: str) -> int:
    """Rewrite the damaged segments of a part with their intact records; returns how many there were.

    Needs the caller to hold the writer's lock of the part. If a removal is lost, a record without its bytes
    may come back; reading and `verify` find this.
    """
    found = damaged(blobs, part)
    for name, segment in found.items():
        blobs.write(name, encode(segment.records, segment.note, is_base=segment.is_base))
    return len(found)


def _segments(blobs: Blobs, folder: str) -> list[str]:
    return [name for name in blobs.list(folder) if SEGMENT.fullmatch(name)]


def _number(segment: str) -> int:
    match = SEGMENT.fullmatch(segment)
    if match is None:
        raise ValueError(f"{segment} is no segment of an index")
    return int(match[1])
