"""The sound of clips as 16 kHz stereo waveforms, one safetensors file a clip."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from ltxcore.store.blobs import Blobs
from ltxcore.store.checksum import checksum, has_checksum, unchanged
from ltxcore.store.index import Index
from ltxcore.store.segment import Record

Waveform = np.ndarray[Any, np.dtype[np.float32]]


class WaveformLost(RuntimeError):
    """The bytes of a committed waveform are gone or changed."""


class WaveformStore:
    """Waveforms by key, [2, N] float32. Writing needs the caller to hold the writer's lock."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self.index = Index(blobs, "audio/index")

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The keys that are neither stored, with their bytes in place, nor quarantined."""
        wanted = list(keys)
        files = {key: waveform_name(key) for key in wanted if _stored(self.index.get(key))}
        present = self._blobs.existing(files.values())
        return [key for key in wanted if files.get(key) not in present and self.error(key) is None]

    def put(self, waveforms: Mapping[str, Waveform], inputs: Mapping[str, dict[str, Any]]) -> None:
        """Write a batch of waveforms and then commit them together.

        Raises:
            DiskFull, OSError: none of the batch is committed then.
        """
        files = {
            key: save({"waveform": np.ascontiguousarray(waveform, dtype=np.float32)})
            for key, waveform in waveforms.items()
        }
        self._blobs.write_all({waveform_name(key): data for key, data in files.items()})
        self.index.commit(
            {key: {"state": "stored", **checksum(data), "inputs": inputs[key]} for key, data in files.items()}
        )

    def quarantine(self, errors: Mapping[str, str], inputs: Mapping[str, dict[str, Any]]) -> None:
        """Record which sounds cannot be decoded, and why."""
        self.index.commit(
            {k: {"state": "quarantined", "error": e, "inputs": inputs[k]} for k, e in errors.items()}
        )

    def error(self, key: str) -> str | None:
        """Why a key is quarantined, or None where it is not."""
        record = self.index.get(key)
        return None if record is None or record["state"] != "quarantined" else str(record["error"])

    def read(self, key: str) -> Waveform:
        """The waveform of a committed key, [2, N].

        Raises:
            KeyError: the key is not committed.
            WaveformLost: its bytes are gone or are not those that were written.
        """
        record = self.index[key]
        data = self.bytes_of(key)
        if data is None:
            raise WaveformLost(f"{waveform_name(key)} is gone from {self._blobs.url}; run split-audio again")
        if not unchanged(record, data):
            raise WaveformLost(
                f"{waveform_name(key)} in {self._blobs.url} is not what was written; "
                "`ltx2 verify --repair` marks it, and split-audio then splits it again"
            )
        waveform: Waveform = load(data)["waveform"]
        return waveform

    def bytes_of(self, key: str) -> bytes | None:
        """The stored bytes of a key, whatever they are; None where they are gone."""
        try:
            return self._blobs.read(waveform_name(key))
        except FileNotFoundError:
            return None


def _stored(record: Record | None) -> bool:
    return record is not None and record["state"] == "stored" and has_checksum(record)


def waveform_name(key: str) -> str:
    """The file of a waveform."""
    return f"audio/{key[:2]}/{key}.safetensors"
