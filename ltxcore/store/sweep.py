"""Sweeping a store: what no reference needs, what crashes left, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ltxcore.store.blobs import TEMPORARY, Blobs, Entry
from ltxcore.store.index import Index
from ltxcore.store.latents import LatentStore, chunk_of, row_of
from ltxcore.store.segment import Record
from ltxcore.store.texts import TextStore
from ltxcore.store.waveforms import WaveformStore, waveform_name

# What lies about for less may still be at work.
LEFTOVER_S = 3600.0

FileOf = Callable[[str, Record], str | None]


@dataclass
class PartSweep:
    """What can go of one part of a store."""

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


def plan_part(blobs: Blobs, part: str, needed: Mapping[str, set[str]], older_than_s: float) -> PartSweep:
    """What of a part no reference needs and is older than `older_than_s`. Changes nothing."""
    plan = PartSweep(part)
    index, files_of, present = _look(blobs, part)
    now = time.time()
    wanted = needed.get(part, set())
    for key, record in index.items():
        entry = None if (file := files_of(key, record)) is None else present.get(file)
        young = entry is not None and now - entry.modified_s < older_than_s
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


def sweep_part(blobs: Blobs, part: str, needed: Mapping[str, set[str]], older_than_s: float) -> PartSweep:
    """Take away what `plan_part` names. Needs the caller to hold the writer's locks of the part and `refs`.

    The index forgets first; a crash in between leaves files that the next sweep finds.
    """
    plan = plan_part(blobs, part, needed, older_than_s)
    index, _, _ = _look(blobs, part)
    index.commit(dict.fromkeys(plan.keys))
    blobs.delete(plan.unnamed)
    return plan


def _look(blobs: Blobs, part: str) -> tuple[Index, FileOf, dict[str, Entry]]:
    """The index of a part, the file of each of its records (None where it has none), and all its files."""
    if part == "latents":
        chunks = {n: e for n, e in blobs.walk("latents").items() if row_of(n) is not None}
        return LatentStore(blobs).index, lambda _, r: chunk_of(r) if "row" in r else None, chunks
    if part == "audio":
        sounds = {n: e for n, e in blobs.walk("audio").items() if n.endswith(".safetensors")}
        return WaveformStore(blobs).index, lambda k, r: waveform_name(k) if "sha256" in r else None, sounds
    tables = {n: e for n, e in blobs.walk("text/features").items() if n.endswith(".arrow")}
    return TextStore(blobs).index, lambda _, r: str(r["file"]), tables
