"""Compaction: merges index segments and small Arrow files, and deletes files that no record names.

Every step leaves a store in which each committed sample is whole: bytes are copied into places that no
record names, one index segment then names the new places, and only then the old ones are deleted. Readers
that still hold the old index find their sample again after a refresh.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ltxcore.store.blobs import Blobs
from ltxcore.store.index import FOLDERS, Index
from ltxcore.store.latents import META, LatentStore, orphans, row_of
from ltxcore.store.records import FORMS, StoredText
from ltxcore.store.segment import Record
from ltxcore.store.texts import Embedded, TextLost, TextStore

# Captions of a rewritten Arrow file.
TEXT_ROWS = 256


@dataclass
class Compacted:
    """What a compaction did."""

    segments: int = 0
    """Index segments that were merged."""
    trimmed: int = 0
    """Files that no record named, removed."""
    text_files: int = 0
    """Arrow files that were rewritten."""


def compact(blobs: Blobs, part: str, done: Compacted) -> None:
    """Compact one part of a store. Needs the caller to hold the writer's lock of the part.

    Raises:
        DiskFull, OSError: nothing is lost; what was not finished is done by the next compaction.
        Overtaken: another process writes without the lock.
    """
    if part == "latents":
        _compact_latents(blobs, done)
    elif part == "text":
        _compact_texts(blobs, done)
    else:
        for folder in FOLDERS[part]:
            index = Index(blobs, folder, FORMS[folder])
            if (segments := len(blobs.list(folder))) > 1:
                _merge(index, {}, {}, index.newest, segments, done)


def _merge(
    index: Index[Any], changes: Mapping[str, Any], note: Record, after: int, segments: int, done: Compacted
) -> None:
    index.compact(changes, note, after)
    done.segments += segments


def _compact_latents(blobs: Blobs, done: Compacted) -> None:
    stored, store = _stored_arrays(blobs), LatentStore(blobs)
    after, segments, named = store.index.newest, len(blobs.list("latents/index")), store.arrays()
    left = [name for chunks in stored.values() for name in orphans(chunks, named)]
    # Who has written a chunk and not committed it yet must learn that it was taken away.
    if segments > 1 or left:
        note = store.note(name for chunks in stored.values() for name in chunks)
        _merge(store.index, {}, note, after, segments, done)
    # A row that is left free is never used again: it is a file that is not there, and costs nothing.
    blobs.delete([*left, *(f"{array}/{META}" for array in stored if array not in named)])
    done.trimmed += len(left)
    for array in named:
        store.describe_all(array)


def _stored_arrays(blobs: Blobs) -> dict[str, list[str]]:
    """The chunk files of each array that is there, named by the index or not."""
    arrays: dict[str, list[str]] = {}
    for name in blobs.walk("latents"):
        folder, _, file = name.rpartition("/")
        if file == META:
            arrays.setdefault(folder, [])
        elif row_of(name) is not None:
            arrays.setdefault(folder, []).append(name)
    return arrays


def _compact_texts(blobs: Blobs, done: Compacted) -> None:
    store = TextStore(blobs)
    after = store.index.newest
    sparse = _sparse_files(store)
    changes: dict[str, StoredText] = {}
    rows: list[Embedded] = []
    for key, record in sorted(store.index.items()):
        if record.file in sparse and (row := _intact(store, key)) is not None:
            rows.append(row)
        if len(rows) == TEXT_ROWS:
            changes |= store.write_file(rows)
            rows.clear()
    if rows:
        changes |= store.write_file(rows)
    segments, files = len(blobs.list("text/index")), set(blobs.walk("text/features"))
    if segments > 1 or changes or _unnamed(store, files):
        _merge(store.index, changes, {}, after, segments, done)
    done.text_files += len(sparse) if changes else 0
    left = _unnamed(store, files)
    blobs.delete(left)
    done.trimmed += len(left)


def _unnamed(store: TextStore, files: Collection[str]) -> list[str]:
    """The Arrow files that no record names."""
    named = {record.file for _, record in store.index.items()}
    return sorted(name for name in files if name.endswith(".arrow") and name not in named)


def _sparse_files(store: TextStore) -> Sequence[str]:
    """Arrow files of which rows are unused, or that are small while others are small too."""
    used: dict[str, int] = {}
    for _, record in store.index.items():
        used[record.file] = used.get(record.file, 0) + 1
    present = {name for name in used if store.rows_in(name) is not None}
    torn = {name for name in present if used[name] < (store.rows_in(name) or 0)}
    small = {name for name in present if used[name] < TEXT_ROWS // 2}
    return sorted(torn | (small if len(small) > 1 else set()))


def _intact(store: TextStore, key: str) -> Embedded | None:
    """A row, or None if it is broken; a broken row stays, so that `verify` can report it."""
    try:
        return store.read(key)
    except TextLost:
        return None
