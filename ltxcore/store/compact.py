"""Compaction: index segments into one, arrays without holes, small Arrow files into larger ones.

Every step leaves a store in which each committed sample is whole: bytes are copied into places that no
record names, one index segment then names the new places, and only then the old ones are deleted. Readers
that still hold the old index find their sample again after a refresh.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ltxcore.store.blobs import Blobs
from ltxcore.store.checksum import unchanged
from ltxcore.store.index import FOLDERS, Index
from ltxcore.store.latents import META, LatentStore, chunk_name, orphans, row_of, shape_of
from ltxcore.store.segment import Record
from ltxcore.store.texts import Embedded, TextLost, TextStore

# Bytes of chunks that are held in memory at once while rows move.
COPY_BYTES = 64 << 20
# Captions of a rewritten Arrow file.
TEXT_ROWS = 256


@dataclass
class Compacted:
    """What a compaction did."""

    segments: int = 0
    """Index segments that were merged."""
    moved: int = 0
    """Latents that moved into holes."""
    trimmed: int = 0
    """Chunk files that no record named, removed."""
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
            index = Index(blobs, folder)
            _merge(index, {}, {}, index.newest, len(blobs.list(folder)), done)


def _merge(
    index: Index, changes: dict[str, Record], note: Record, after: int, segments: int, done: Compacted
) -> None:
    if segments > 1 or changes:
        index.compact(changes, note, after)
        done.segments += segments


def _compact_latents(blobs: Blobs, done: Compacted) -> None:
    store = LatentStore(blobs)
    after = store.index.newest
    moves: dict[str, Record] = {}
    # On an object store a hole is an object that is not there: nothing is won by moving rows, and a row
    # that is never used twice cannot be mistaken by who lost its lease.
    if blobs.local is not None:
        for array, rows in store.arrays().items():
            moves |= _close_holes(blobs, store, array, rows)
    note = {} if blobs.local is not None else {"ends": store.ends()}
    _merge(store.index, moves, note, after, len(blobs.list("latents/index")), done)
    done.moved += len(moves)
    named = store.arrays()
    for array, chunks in _stored_arrays(blobs).items():
        left = orphans(chunks, named)
        blobs.delete(left)
        done.trimmed += len(left)
        if array not in named:
            blobs.delete([f"{array}/{META}"])
        elif blobs.local is not None:
            store.resize(array, max(named[array]) + 1)


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


def _close_holes(blobs: Blobs, store: LatentStore, array: str, rows: set[int]) -> dict[str, Record]:
    """Copy the last rows of an array into its holes; returns the records that will name the copies."""
    holes = [row for row in range(len(rows)) if row not in rows]
    tail = {
        record["row"]: (key, record)
        for key, record in store.index.items()
        if record.get("array") == array and record["row"] >= len(rows)
    }
    moves: dict[str, Record] = {}
    chunks: dict[str, bytes] = {}
    dimensions = len(shape_of(array)) + 1
    for hole, row in zip(holes, sorted(tail), strict=False):
        key, record = tail[row]
        data = store.bytes_of(record)
        if data is None or not unchanged(record, data):
            continue  # Broken: where it is, `verify` can still name it.
        chunks[chunk_name(array, hole, dimensions)] = data
        moves[key] = {**record, "row": hole}
        if sum(map(len, chunks.values())) >= COPY_BYTES:
            blobs.write_all(chunks)
            chunks.clear()
    blobs.write_all(chunks)
    return moves


def _compact_texts(blobs: Blobs, done: Compacted) -> None:
    store = TextStore(blobs)
    after = store.index.newest
    sparse = _sparse_files(store)
    changes: dict[str, Record] = {}
    rows: list[Embedded] = []
    for key, record in sorted(store.index.items()):
        if record["file"] in sparse and (row := _intact(store, key)) is not None:
            rows.append(row)
        if len(rows) == TEXT_ROWS:
            changes |= store.write_file(rows)
            rows.clear()
    if rows:
        changes |= store.write_file(rows)
    _merge(store.index, changes, {}, after, len(blobs.list("text/index")), done)
    done.text_files += len(sparse) if changes else 0
    named = {record["file"] for _, record in store.index.items()}
    left = [name for name in blobs.walk("text/features") if name.endswith(".arrow") and name not in named]
    blobs.delete(left)
    done.trimmed += len(left)


def _sparse_files(store: TextStore) -> Sequence[str]:
    """Arrow files of which rows are unused, or that are small while others are small too."""
    used: dict[str, int] = {}
    for _, record in store.index.items():
        used[record["file"]] = used.get(record["file"], 0) + 1
    present = {name for name in used if store.rows_in(name) is not None}
    torn = {name for name in present if used[name] < (store.rows_in(name) or 0)}
    small = {name for name in present if used[name] < TEXT_ROWS // 2}
    return sorted(torn | (small if len(small) > 1 else set()))


def _intact(store: TextStore, key: str) -> Embedded | None:
    """A row, or None where it is broken: it stays where `verify` can name it."""
    try:
        return store.read(key)
    except TextLost:
        return None
