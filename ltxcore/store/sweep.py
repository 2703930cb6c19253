"""Sweeps a store: deletes what no reference needs and what crashes left, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ltxcore.store.blobs import TEMPORARY, Blobs, Entry
from ltxcore.store.index import GOING, Index
from ltxcore.store.latents import LatentStore, chunk_of, row_of
from ltxcore.store.records import EncodedLatent, Quarantined, StoredText, StoredWaveform
from ltxcore.store.segment import Record
from ltxcore.store.texts import TextStore
from ltxcore.store.waveforms import WaveformStore

# What lies about for less may still be at work.
LEFTOVER_S = 3600.0

FileOf = Callable[[str, Any], str | None]
"""The file of a key and its record; None where it has none."""
NeededNow = Callable[[], Mapping[str, set[str]]]
"""What is needed by all that is noted in the store when it is called: part -> keys."""


@dataclass(frozen=True)
class Look:
    """The content of a part of a store."""

    index: Index[Any]
    file_of: FileOf
    present: dict[str, Entry]
    """All its files, as they were before the index was read."""
    note: Record | None = None
    """What is to be noted in the index before any of them is deleted."""


@dataclass
class PartSweep:
    """What can be deleted of one part of a store."""

    part: str
    kept: int = 0
    keys: list[str] = field(default_factory=list)
    """Committed samples that nothing needs."""
    unnamed: list[str] = field(default_factory=list)
    """Files that no record names any more, or will name after the sweep."""
    bytes: int = 0


def leftovers(blobs: Blobs) -> dict[str, Entry]:
    """Temporary files of writers that were killed."""
    old = time.time() - LEFTOVER_S
    return {
        name: entry
        for name, entry in blobs.walk("").items()
        if name.endswith((TEMPORARY, ".partial")) and entry.modified_s < old
    }


def plan_part(blobs: Blobs, part: str, needed: Mapping[str, set[str]], before_s: float) -> PartSweep:
    """Find what no reference needs and was written before `before_s`, a `time.time()`. Changes nothing."""
    return _plan(part, _look(blobs, part), needed, before_s)


def _plan(part: str, look: Look, needed: Mapping[str, set[str]], before_s: float) -> PartSweep:
    plan = PartSweep(part)
    index, files_of, present = look.index, look.file_of, look.present
    now = time.time()
    wanted = needed.get(part, set())
    for key, record in index.items():
        entry = None if (file := files_of(key, record)) is None else present.get(file)
        young = entry is not None and entry.modified_s >= before_s
        if key in wanted or young:
            plan.kept += 1
        else:
            plan.keys.append(key)
    going = set(plan.keys)
    named = {files_of(key, record) for key, record in index.items() if key not in going}
    before = {files_of(key, record) for key, record in index.items()}
    for name, entry in present.items():
        left_by_crash = name not in before and now - entry.modified_s > LEFTOVER_S
        if name not in named and (name in before or left_by_crash):
            plan.unnamed.append(name)
            plan.bytes += entry.size_bytes
    return plan


def sweep_part(blobs: Blobs, part: str, needed_now: NeededNow, before_s: float) -> PartSweep:
    """Delete what `plan_part` names. Needs the caller to hold the writer's locks of the part and `refs`.

    The index forgets first; a crash in between leaves files that the next sweep finds. Who was suspended may
    have lost its locks, so a sweep first notes which keys will go and then asks again what is needed: a stage
    that published its needs later finds the note (`Index.keep`), and this sweep is overtaken.

    Raises:
        Overtaken: another process writes without the lock, or needs what was to go; nothing was deleted.
    """
    look = _look(blobs, part)
    plan, index = _plan(part, look, needed_now(), before_s), look.index
    after, note = index.newest, look.note or {}
    if plan.keys:
        index.overtake((), after, {**note, GOING: sorted(plan.keys)})
        plan, after = _plan(part, look, needed_now(), before_s), after + 1
    if plan.keys or plan.unnamed:
        index.overtake(plan.keys, after, note)
    blobs.delete(plan.unnamed)
    return plan


def _latent_file(key: str, record: EncodedLatent | Quarantined) -> str | None:
    return chunk_of(record) if isinstance(record, EncodedLatent) else None


def _waveform_file(key: str, record: StoredWaveform | Quarantined) -> str | None:
    return record.file if isinstance(record, StoredWaveform) else None


def _text_file(key: str, record: StoredText) -> str | None:
    return record.file


def _look(blobs: Blobs, part: str) -> Look:
    if part == "latents":
        chunks = {n: e for n, e in blobs.walk("latents").items() if row_of(n) is not None}
        store = LatentStore(blobs)
        return Look(store.index, _latent_file, chunks, store.note(chunks))
    if part == "audio":
        sounds = {n: e for n, e in blobs.walk("audio").items() if n.endswith(".safetensors")}
        return Look(WaveformStore(blobs).index, _waveform_file, sounds)
    tables = {n: e for n, e in blobs.walk("text/features").items() if n.endswith(".arrow")}
    return Look(TextStore(blobs).index, _text_file, tables)
