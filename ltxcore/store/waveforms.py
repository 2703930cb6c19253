"""The sound of clips as 16 kHz stereo waveforms, one safetensors file a clip.

No file's name is ever used twice: a sweep that is suspended before it deletes one deletes nothing else.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import load, save

from ltxcore.store.blobs import Blobs
from ltxcore.store.checksum import checksum
from ltxcore.store.index import Index
from ltxcore.store.present import present
from ltxcore.store.records import CONTENT, WAVEFORMS, Quarantined, StoredWaveform, WaveformRecord

Waveform = np.ndarray[Any, np.dtype[np.float32]]

LENGTH_BYTES: Final = 8
"""A safetensors file begins with the length of its header."""


class WaveformLost(RuntimeError):
    """The bytes of a committed waveform are missing or damaged."""


class WaveformStore:
    """Waveforms by key, [2, N] float32. Writing needs the caller to hold the writer's lock."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self.index = Index(blobs, "audio/index", WAVEFORMS)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The keys that are neither stored, with their bytes in place, nor quarantined."""
        wanted = list(keys)
        records = {key: self.index.get(key) for key in wanted}
        files = {key: record.file for key, record in records.items() if isinstance(record, StoredWaveform)}
        there = present(self._blobs, set(files.values()), self._is_cut)
        return [key for key in wanted if files.get(key) not in there and self.error(key) is None]

    def _is_cut(self, name: str, size: int) -> bool:
        """Whether a file is shorter than its header says. An object store takes objects only whole."""
        if self._blobs.local is None:
            return False
        with Path(self._blobs.path(name)).open("rb") as file:
            begin = LENGTH_BYTES + int.from_bytes(file.read(LENGTH_BYTES), "little")
            try:
                header = json.loads(file.read(begin - LENGTH_BYTES)) if begin <= size else {}
                return bool(begin + header["waveform"]["data_offsets"][1] > size)
            except (ValueError, KeyError, TypeError, IndexError):
                return True

    def put(self, waveforms: Mapping[str, Waveform], inputs: Mapping[str, dict[str, Any]]) -> None:
        """Write a batch of waveforms and then commit them together.

        Raises:
            DiskFull, OSError: none of the batch is committed then.
            Overtaken: another process has written meanwhile, or deleted what was not committed.
        """
        self.index.refresh()
        after = self.index.newest
        files = {
            key: save({"waveform": np.ascontiguousarray(waveform, dtype=np.float32)})
            for key, waveform in waveforms.items()
        }
        records: dict[str, WaveformRecord] = {}
        named: dict[str, bytes] = {}
        for key, data in files.items():
            name = f"audio/{key[:2]}/{key}.{uuid.uuid4().hex}.safetensors"
            named[name] = data
            records[key] = StoredWaveform(name, checksum(data), inputs[key])
        self._blobs.write_all(named, replace=False)
        self.index.commit(records, after)

    def quarantine(self, errors: Mapping[str, str], inputs: Mapping[str, dict[str, Any]]) -> None:
        """Record which sounds cannot be decoded, and why."""
        self.index.commit({key: Quarantined(error, inputs[key], CONTENT) for key, error in errors.items()})

    def error(self, key: str) -> str | None:
        """Why a key is quarantined, or None where it is not, or for a reason that was no verdict on it."""
        record = self.index.get(key)
        return record.error if isinstance(record, Quarantined) and record.is_verdict else None

    def read(self, key: str) -> Waveform:
        """The waveform of a committed key, [2, N].

        Raises:
            KeyError: the key is not committed.
            WaveformLost: its bytes are gone or are not those that were written.
        """
        record = self._stored(key)
        data = self.bytes_of(record)
        if data is None:
            # It may have been swept and made again since the index was read.
            self.index.refresh()
            record = self._stored(key)
            data = self.bytes_of(record)
        if data is None:
            raise WaveformLost(f"{record.file} is gone from {self._blobs.url}; run split-audio again")
        if checksum(data) != record.checksum:
            raise WaveformLost(
                f"{record.file} in {self._blobs.url} is not what was written; "
                "`ltx2 verify --repair` marks it, and split-audio then splits it again"
            )
        waveform: Waveform = load(data)["waveform"]
        return waveform

    def _stored(self, key: str) -> StoredWaveform:
        record = self.index[key]
        if isinstance(record, Quarantined):
            raise KeyError(f"{key} is quarantined: {record.error}")
        return record

    def bytes_of(self, record: StoredWaveform) -> bytes | None:
        """The stored bytes of a record, whatever they are; None where they are gone."""
        try:
            return self._blobs.read(record.file)
        except FileNotFoundError:
            return None
