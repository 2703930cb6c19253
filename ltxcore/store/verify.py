"""Holding every committed sample against its checksum, and marking what is broken as missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ltxcore.store.blobs import Blobs
from ltxcore.store.checksum import has_checksum, unchanged
from ltxcore.store.index import Index
from ltxcore.store.latents import LatentStore, chunk_of
from ltxcore.store.segment import Record
from ltxcore.store.texts import TextLost, TextStore
from ltxcore.store.waveforms import WaveformStore, waveform_name

GONE, CHANGED, OLD = "is gone", "is not what was written", "was written by an earlier version of the store"


@dataclass(frozen=True)
class Broken:
    """A committed sample whose bytes are not those that were written."""

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
            broken.append(Broken(part, key, file, fault, record.get("inputs", {})))
        on_sample()
    return Verified(checked, tuple(broken))


def forget_broken(blobs: Blobs, part: str, broken: tuple[Broken, ...]) -> int:
    """Mark the broken samples of a part as missing, so that the next run makes them again.

    Needs the caller to hold the writer's lock of the part. What another run has mended since is left alone.
    Returns how many were marked.
    """
    suspects = {found.key for found in broken if found.part == part}
    still = [
        key
        for candidate, key, _, _, fault in _samples(blobs, only=suspects)
        if candidate == part and fault is not None
    ]
    index_of(blobs, part).commit(dict.fromkeys(still))
    return len(still)


def index_of(blobs: Blobs, part: str) -> Index:
    """The index of `latents`, `audio` or `text`."""
    if part == "latents":
        return LatentStore(blobs).index
    return WaveformStore(blobs).index if part == "audio" else TextStore(blobs).index


def _samples(
    blobs: Blobs, only: set[str] | None = None
) -> Iterator[tuple[str, str, Record, str, str | None]]:
    """Part, key, record, file and fault of each committed sample."""
    latents = LatentStore(blobs)
    for key, record in _records(latents.index, "encoded", only):
        yield "latents", key, record, chunk_of(record), _fault(record, latents.bytes_of(record))
    waveforms = WaveformStore(blobs)
    for key, record in _records(waveforms.index, "stored", only):
        yield "audio", key, record, waveform_name(key), _fault(record, waveforms.bytes_of(key))
    texts = TextStore(blobs)
    for key, record in _records(texts.index, None, only):
        yield "text", key, record, record["file"], _text_fault(texts, key, record)


def _records(index: Index, state: str | None, only: set[str] | None) -> list[tuple[str, Record]]:
    return [
        (key, record)
        for key, record in index.items()
        if record.get("state") == state and (only is None or key in only)
    ]


def _fault(record: Record, data: bytes | None) -> str | None:
    if data is None:
        return GONE
    if not has_checksum(record):
        return OLD
    return None if unchanged(record, data) else CHANGED


def _text_fault(texts: TextStore, key: str, record: Record) -> str | None:
    if not has_checksum(record):
        return OLD
    try:
        return _fault(record, texts.row_of(key).payload)
    except TextLost as error:
        return str(error)
