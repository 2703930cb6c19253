"""Latents in Zarr v3: one array a (kind, latent space, shape), one chunk a sample, index after data.

bf16 is stored as a uint16 view (Zarr has no bfloat16) and unwritten rows hold bf16 NaN, so that a hole is
loud. There are no shards and no `append()`: both lose rows silently under two writers. Rows are handed
out by the one process that holds the writer's lock, and each row is written once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from zarr.storage import FsspecStore, LocalStore

from ltxcore.store.blobs import Blobs
from ltxcore.store.index import Index, Record

Kind = Literal["video", "audio"]
BF16_NAN = 0x7FC0


class LatentsLost(RuntimeError):
    """The bytes of a committed sample are gone or changed."""


@dataclass(frozen=True)
class Encoded:
    """One sample on its way into the store: bf16 bits as uint16, without a batch dimension."""

    key: str
    bits: np.ndarray[Any, np.dtype[np.uint16]]
    inputs: dict[str, Any]
    """What went into the key, kept so that a miss can explain itself."""


class LatentStore:
    """The latents of a store. Reading needs no lock; writing needs the caller to hold the writer's lock."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self.index = Index(blobs, "latents/index")
        self._arrays: dict[str, Any] = {}

    def array_name(self, kind: Kind, space: str, shape: Sequence[int]) -> str:
        return f"latents/{kind}/{space}/{'x'.join(str(n) for n in shape)}"

    def reserve(self, array: str, shape: Sequence[int], more: int) -> None:
        """Make room for `more` rows after the last committed one; called once before a stage writes."""
        rows = self._next_row(array) + more
        found = self._open(array)
        if found is None:
            self._arrays[array] = zarr.create_array(
                store=self._zarr_store(array),
                shape=(rows, *shape),
                chunks=(1, *shape),
                dtype="uint16",
                fill_value=BF16_NAN,
                compressors=None,
                attributes={"dtype": "bfloat16"},
            )
        elif found.shape[0] < rows:
            found.resize((rows, *shape))

    def put(self, array: str, samples: Sequence[Encoded]) -> None:
        """Write a batch of samples and then commit them together.

        Raises:
            OSError: the disk is full; no sample of the batch is committed then.
        """
        row = self._next_row(array)
        target = self._open(array)
        if target is None or target.shape[0] < row + len(samples):
            raise ValueError(f"{array} has no room for {len(samples)} more samples; reserve them first")
        records: dict[str, Record] = {}
        for offset, sample in enumerate(samples):
            target[row + offset] = sample.bits
            records[sample.key] = {
                "state": "encoded",
                "array": array,
                "row": row + offset,
                "sha256": hashlib.sha256(np.ascontiguousarray(sample.bits).tobytes()).hexdigest(),
                "inputs": sample.inputs,
            }
        self._sync(array, range(row, row + len(samples)), target.ndim)
        self.index.commit(records)

    def quarantine(self, key: str, error: str, inputs: dict[str, Any]) -> None:
        """Record that a sample cannot be encoded, so that it is neither lost nor tried for ever."""
        self.index.commit({key: {"state": "quarantined", "error": error, "inputs": inputs}})

    def error(self, key: str) -> str | None:
        """Why a key is quarantined, or None where it is not."""
        record = self.index.get(key)
        return None if record is None or record["state"] != "quarantined" else str(record["error"])

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The keys that are neither encoded, with their bytes in place, nor quarantined."""
        return [key for key in keys if not self._settled(key)]

    def read(self, key: str) -> np.ndarray[Any, np.dtype[np.uint16]]:
        """The bf16 bits of a committed sample.

        Raises:
            KeyError: the key is not committed.
            LatentsLost: its bytes are gone or are not those that were written.
        """
        record = self.index[key]
        array = self._open(record["array"])
        if array is None:
            raise LatentsLost(f"{record['array']} is gone from {self._blobs.url}; run encode-latents again")
        bits = np.asarray(array[record["row"]])
        if hashlib.sha256(bits.tobytes()).hexdigest() != record["sha256"]:
            raise LatentsLost(
                f"row {record['row']} of {record['array']} in {self._blobs.url} is not what was written; "
                "delete that array and run encode-latents again"
            )
        return bits

    def _settled(self, key: str) -> bool:
        record = self.index.get(key)
        if record is None:
            return False
        if record["state"] == "quarantined":
            return True
        dimensions = record["array"].rsplit("/", 1)[-1].count("x") + 2
        return self._blobs.exists(_chunk(record["array"], record["row"], dimensions))

    def _next_row(self, array: str) -> int:
        rows = [r["row"] for _, r in self.index.items() if r.get("array") == array]
        return max(rows, default=-1) + 1

    def _open(self, array: str) -> Any:
        if array not in self._arrays:
            if not self._blobs.exists(f"{array}/zarr.json"):
                return None
            self._arrays[array] = zarr.open_array(self._zarr_store(array), mode="r+")
        return self._arrays[array]

    def _zarr_store(self, array: str) -> LocalStore | FsspecStore:
        if self._blobs.local is not None:
            return LocalStore(self._blobs.path(array))
        return FsspecStore.from_url(f"{self._blobs.url}/{array}")

    def _sync(self, array: str, rows: range, dimensions: int) -> None:
        """Bring the rows to the disk before the index names them: Zarr renames but does not fsync."""
        if self._blobs.local is None:
            return
        for row in rows:
            # A row that is all fill value has no chunk file; such a row cannot come out of an encoder.
            handle = os.open(Path(self._blobs.path(_chunk(array, row, dimensions))), os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _chunk(array: str, row: int, dimensions: int) -> str:
    return f"{array}/c/{row}" + "/0" * (dimensions - 1)
