"""Latents in Zarr v3: one array a (kind, latent space, shape), one chunk a sample, index after data.

CREPA's features, one token a latent, are kept here likewise, as the kind `teacher`.

bf16 is stored as a uint16 view (Zarr has no bfloat16) and unwritten rows hold bf16 NaN, so that a hole is
loud. There are no shards and no `append()`: both lose rows silently under two writers. Rows are handed out
by the one process that holds the writer's lock, and each row is written once: one that is free again is never
used again, so that whoever is suspended in a sweep or a compaction deletes no row that was made since.

Zarr makes the arrays, and any Zarr reads them. A chunk is the plain bytes of its sample, so this module
reads and writes chunk files by itself: that is four times as fast, and a whole batch is flushed at once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import zarr
from zarr.storage import MemoryStore

from ltxcore.store.blobs import Blobs
from ltxcore.store.checksum import checksum
from ltxcore.store.index import Index, Overtaken
from ltxcore.store.present import present
from ltxcore.store.records import CONTENT, LATENTS, EncodedLatent, LatentRecord, Quarantined
from ltxcore.store.segment import Record

Kind = Literal["video", "audio", "mask", "teacher"]
Bits = np.ndarray[Any, np.dtype[np.uint16]]
BF16_NAN = 0x7FC0
META = "zarr.json"


class LatentsLost(RuntimeError):
    """The bytes of a committed sample are missing or damaged."""


@dataclass(frozen=True)
class Encoded:
    """One sample on its way into the store: bf16 bits as uint16, without a batch dimension."""

    key: str
    bits: Bits
    inputs: dict[str, Any]
    """What went into the key, kept so that a miss can explain itself."""


class LatentStore:
    """The latents of a store. Reading needs no lock; writing needs the caller to hold the writer's lock."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._ends: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._scanned: set[str] = set()
        self.index = Index(blobs, "latents/index", LATENTS, self._take_in)

    def _take_in(self, key: str, record: LatentRecord) -> None:
        if isinstance(record, EncodedLatent):
            self._ends[record.array] = max(self._ends.get(record.array, 0), record.row + 1)

    def array_name(self, kind: Kind, space: str, shape: Sequence[int]) -> str:
        """The Zarr array of one kind, latent space and shape."""
        return f"latents/{kind}/{space}/{'x'.join(str(n) for n in shape)}"

    def reserve(self, array: str, shape: Sequence[int], more: int) -> None:
        """Make room for `more` rows after the last committed one; called once before a stage writes."""
        self.index.refresh()
        self._grow(array, shape, self._next_row(array) + more)

    def put(self, array: str, samples: Sequence[Encoded]) -> None:
        """Write a batch of samples and then commit them together.

        Raises:
            DiskFull, OSError: no sample of the batch is committed then.
            Overtaken: another process writes at the same time; none of the batch is committed.
        """
        self.index.refresh()
        after = self.index.newest
        row = self._next_row(array)
        shape = self._shape(array)
        if shape is None or shape[0] < row + len(samples):
            # Its description was made again by somebody who had looked before.
            self._grow(array, shape_of(array), row + len(samples))
        dimensions = len(shape_of(array)) + 1
        chunks = {
            chunk_name(array, number, dimensions): _bytes(sample.bits)
            for number, sample in enumerate(samples, row)
        }
        try:
            self._write_rows(array, chunks, samples, row, after)
        except Overtaken:
            # What this process wrote of the array's shape may be less than the others need by now.
            self.describe_all(array)
            raise

    def _write_rows(
        self, array: str, chunks: Mapping[str, memoryview], samples: Sequence[Encoded], row: int, after: int
    ) -> None:
        try:
            # A lock can be lost without notice (a lease that ran out, a lock file that was deleted), so that
            # a row is only ever created.
            self._blobs.write_all(chunks, replace=False)
        except FileExistsError as error:
            raise Overtaken(f"{array} in {self._blobs.url} is being written by another process") from error
        records: dict[str, LatentRecord] = {
            sample.key: EncodedLatent(array, number, checksum(data), sample.inputs)
            for number, (sample, data) in enumerate(zip(samples, chunks.values(), strict=True), row)
        }
        self.index.commit(records, after)

    def describe_all(self, array: str) -> None:
        """Let the array's description count all its rows, as whoever opens it with Zarr alone needs it."""
        self._scanned.discard(array)
        self.index.refresh()
        self._grow(array, shape_of(array), self._next_row(array))

    def quarantine(self, errors: Mapping[str, str], inputs: Mapping[str, dict[str, Any]]) -> None:
        """Record which samples cannot be encoded, so that they are neither lost nor tried for ever."""
        self.index.commit({key: Quarantined(error, inputs[key], CONTENT) for key, error in errors.items()})

    def error(self, key: str) -> str | None:
        """Why a key is quarantined, or None where it is not, or for a reason that was no verdict on it."""
        record = self.index.get(key)
        return record.error if isinstance(record, Quarantined) and record.is_verdict else None

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The keys that are neither encoded, with their bytes in place, nor quarantined."""
        wanted = list(keys)
        records = {key: self.index.get(key) for key in wanted}
        chunks = {key: chunk_of(r) for key, r in records.items() if isinstance(r, EncodedLatent)}
        there = present(self._blobs, set(chunks.values()), _is_cut)
        return [key for key in wanted if chunks.get(key) not in there and self.error(key) is None]

    def read(self, key: str) -> Bits:
        """The bf16 bits of a committed sample.

        Raises:
            KeyError: the key is not committed.
            LatentsLost: its bytes are gone or are not those that were written.
        """
        record = self._encoded(key)
        data = self._intact(record)
        if data is None:
            # `ltx2 compact` may have moved it since the index was read.
            self.index.refresh()
            record = self._encoded(key)
            data = self._intact(record)
        if data is None:
            raise LatentsLost(
                f"row {record.row} of {record.array} in {self._blobs.url} is gone or is not what was "
                "written; `ltx2 verify --repair` marks it, and the next run then makes it again"
            )
        return np.frombuffer(data, "<u2").reshape(shape_of(record.array))

    def _encoded(self, key: str) -> EncodedLatent:
        record = self.index[key]
        if isinstance(record, Quarantined):
            raise KeyError(f"{key} is quarantined: {record.error}")
        return record

    def bytes_of(self, record: EncodedLatent) -> bytes | None:
        """The stored bytes of a record, whatever they are; None where they are gone."""
        try:
            return self._blobs.read(chunk_of(record))
        except FileNotFoundError:
            return None

    def arrays(self) -> dict[str, set[int]]:
        """The rows of each array that the index names."""
        rows: dict[str, set[int]] = {}
        for _, record in self.index.items():
            if isinstance(record, EncodedLatent):
                rows.setdefault(record.array, set()).add(record.row)
        return rows

    def note(self, chunks: Iterable[str]) -> Record:
        """For the index: the first row of every array that was never used, before chunks are deleted."""
        ends = dict(self._noted_ends())
        for array, end in self._ends.items():
            ends[array] = max(ends.get(array, 0), end)
        for chunk in chunks:
            array = chunk.rpartition("/")[0]
            ends[array] = max(ends.get(array, 0), (row_of(chunk) or 0) + 1)
        return {"ends": ends}

    def _noted_ends(self) -> dict[str, int]:
        noted: dict[str, int] = self.index.note.get("ends", {})
        return noted

    def _intact(self, record: EncodedLatent) -> bytes | None:
        data = self.bytes_of(record)
        return data if data is not None and checksum(data) == record.checksum else None

    def _next_row(self, array: str) -> int:
        """The first row that was never used, by what is committed now or was before, or left by crashes."""
        if array not in self._scanned:
            for name in self._blobs.list(array):
                if (row := row_of(name)) is not None:
                    self._ends[array] = max(self._ends.get(array, 0), row + 1)
            self._scanned.add(array)
        return max(self._ends.get(array, 0), self._noted_ends().get(array, 0))

    def _grow(self, array: str, shape: Sequence[int], rows: int) -> None:
        found = self._shape(array, again=True)
        if found is None or found[0] < rows:
            self._write_meta(array, shape, rows)

    def _shape(self, array: str, again: bool = False) -> tuple[int, ...] | None:
        if again or array not in self._shapes:
            try:
                self._shapes[array] = tuple(json.loads(self._blobs.read(f"{array}/{META}"))["shape"])
            except (FileNotFoundError, ValueError, KeyError):
                # The name of the array says all that is needed to write it again.
                return None
        return self._shapes[array]

    def _write_meta(self, array: str, shape: Sequence[int], rows: int) -> None:
        documents: dict[str, Any] = {}
        zarr.create_array(
            store=MemoryStore(documents),
            shape=(rows, *shape),
            chunks=(1, *shape),
            dtype="uint16",
            fill_value=BF16_NAN,
            compressors=None,
            attributes={"dtype": "bfloat16"},
            # All chunks in one directory: it is made and flushed once, and listed once.
            chunk_key_encoding={"name": "default", "separator": "."},
        )
        self._blobs.write(f"{array}/{META}", documents[META].to_bytes())
        self._shapes[array] = (rows, *shape)


def _bytes(bits: Bits) -> memoryview:
    """The bytes of a sample as they are stored, without a copy of them."""
    return np.ascontiguousarray(bits, dtype="<u2").reshape(-1).view(np.uint8).data


def shape_of(array: str) -> tuple[int, ...]:
    """The shape of a sample, from the name of its array."""
    return tuple(int(n) for n in array.rpartition("/")[2].split("x"))


def chunk_name(array: str, row: int, dimensions: int) -> str:
    """The file of a row."""
    return f"{array}/c.{row}" + ".0" * (dimensions - 1)


def chunk_of(record: EncodedLatent) -> str:
    """The file of a committed sample."""
    return chunk_name(record.array, record.row, len(shape_of(record.array)) + 1)


def _is_cut(chunk: str, size: int) -> bool:
    """Whether the file of a sample has fewer bytes than the bf16 values of its shape."""
    return size < 2 * math.prod(shape_of(chunk.rpartition("/")[0]))


def row_of(chunk: str) -> int | None:
    """The row of a chunk file, or None for another file of an array."""
    parts = chunk.rpartition("/")[2].split(".")
    return int(parts[1]) if parts[0] == "c" and len(parts) > 1 and parts[1].isdigit() else None


def orphans(names: Collection[str], rows: Mapping[str, set[int]]) -> list[str]:
    """Chunk files that no record names."""
    return [
        name
        for name in names
        if (row := row_of(name)) is not None and row not in rows.get(name.rpartition("/")[0], set())
    ]
