"""Checks every committed sample against its checksum, and marks broken ones as missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ltxcore.store.blobs import Blobs
from ltxcore.store.checksum import checksum
from ltxcore.store.index import Index
from ltxcore.store.latents import LatentStore, chunk_of
from ltxcore.store.records import EncodedLatent, StoredText, StoredWaveform
from ltxcore.store.texts import TextLost, TextStore
from ltxcore.store.waveforms import WaveformStore

GONE, CHANGED = "is gone", "is not what was written"


@dataclass(frozen=True)
class Broken:
    """A committed sample whose bytes are damaged."""

    part: str
    """`latents`, `audio` or `text`."""
    key: str
    file: str
    fault: str
    inputs: dict[str, Any]


@dataclass(frozen=True)
class Verified:
    """What `verify` found."""

    checked: int
    broken: tuple[Broken, ...]


def verify(blobs: Blobs, on_sample: Callable[[], None] = lambda: None) -> Verified:
    """Read every committed sample and compare it with its checksum. Needs no lock."""
    checked = 0
    broken: list[Broken] = []
    for part, key, record, file, fault in _samples(blobs):
        checked += 1
        if fault is not None:
            broken.append(Broken(part, key, file, fault, record.inputs))
        on_sample()
    return Verified(checked, tuple(broken))


def forget_broken(blobs: Blobs, part: str, broken: tuple[Broken, ...]) -> int:
    """Mark the broken samples of a part as missing, so that the next run makes them again.

    Needs the caller to hold the writer's lock of the part. Samples that another run has repaired since are
    left alone. Returns how many were marked.
    """
    suspects = {found.key for found in broken if found.part == part}
    still = [
        key
        for candidate, key, _, _, fault in _samples(blobs, only=suspects)
        if candidate == part and fault is not None
    ]
    index_of(blobs, part).commit(dict.fromkeys(still))
    return len(still)


def index_of(blobs: Blobs, part: str) -> Index[Any]:
    """The index of `latents`, `audio` or `text`."""
    if part == "latents":
        return LatentStore(blobs).index
    return WaveformStore(blobs).index if part == "audio" else TextStore(blobs).index


Stored = EncodedLatent | StoredWaveform | StoredText


def _samples(
    blobs: Blobs, only: set[str] | None = None
) -> Iterator[tuple[str, str, Stored, str, str | None]]:
    """Part, key, record, file and fault of each committed sample."""
    latents = LatentStore(blobs)
    for key, latent in latents.index.items():
        if isinstance(latent, EncodedLatent) and (only is None or key in only):
            fault = _fault(latent, latents.bytes_of(latent))
            yield "latents", key, latent, chunk_of(latent), fault
    waveforms = WaveformStore(blobs)
    for key, waveform in waveforms.index.items():
        if isinstance(waveform, StoredWaveform) and (only is None or key in only):
            yield "audio", key, waveform, waveform.file, _fault(waveform, waveforms.bytes_of(waveform))
    texts = TextStore(blobs)
    for key, text in texts.index.items():
        if only is None or key in only:
            yield "text", key, text, text.file, _text_fault(texts, key, text)


def _fault(record: Stored, data: bytes | None) -> str | None:
    if data is None:
        return GONE
    return None if checksum(data) == record.checksum else CHANGED


def _text_fault(texts: TextStore, key: str, record: StoredText) -> str | None:
    try:
        return _fault(record, texts.row_of(key).payload)
    except TextLost as error:
        return str(error)
