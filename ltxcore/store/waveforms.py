"""The sound of clips as 16 kHz stereo waveforms, one safetensors file a clip."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from ltxcore.store.blobs import Blobs
from ltxcore.store.index import Index, Record

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
        return [key for key in keys if not self._settled(key)]

    def put(self, waveforms: Mapping[str, Waveform], inputs: Mapping[str, dict[str, Any]]) -> None:
        """Write a batch of waveforms and then commit them together."""
        records: dict[str, Record] = {}
        for key, waveform in waveforms.items():
            data = save({"waveform": np.ascontiguousarray(waveform, dtype=np.float32)})
            self._blobs.write(_name(key), data)
            digest = hashlib.sha256(data).hexdigest()
            records[key] = {"state": "stored", "sha256": digest, "inputs": inputs[key]}
        self.index.commit(records)

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
        try:
            data = self._blobs.read(_name(key))
        except FileNotFoundError as error:
            raise WaveformLost(
                f"{_name(key)} is gone from {self._blobs.url}; run split-audio again"
            ) from error
        if hashlib.sha256(data).hexdigest() != record["sha256"]:
            raise WaveformLost(f"{_name(key)} in {self._blobs.url} is not what was written")
        waveform: Waveform = load(data)["waveform"]
        return waveform

    def _settled(self, key: str) -> bool:
        record = self.index.get(key)
        return record is not None and (record["state"] == "quarantined" or self._blobs.exists(_name(key)))


def _name(key: str) -> str:
    return f"audio/{key[:2]}/{key}.safetensors"
