"""MP4 and MOV files whose tracks are shown in other stretches than they were recorded in."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

Stretch = tuple[float, float | None]
"""Seconds that are shown, and where in the track they begin; None where nothing is shown."""


class _Box(NamedTuple):
    at: int
    size: int
    kind: bytes


def edited(source: Path, path: Path, stretches: Sequence[Stretch], kind: bytes = b"vide") -> Path:
    """A copy of a file with `moov` at its end, in which the first track of a kind has other edits."""
    data = bytearray(source.read_bytes())
    (moov,) = _find(data, _Box(-8, len(data) + 8, b""), b"moov")
    scale = struct.unpack_from(">I", data, _find(data, moov, b"mvhd")[0].at + 20)[0]
    track = next(box for box in _find(data, moov, b"trak") if _handler(data, box) == kind)
    media = _find(data, track, b"mdia")[0]
    ticks = struct.unpack_from(">I", data, _find(data, media, b"mdhd")[0].at + 20)[0]
    rows = b"".join(
        struct.pack(">IiI", round(length * scale), -1 if begin is None else round(begin * ticks), 0x10000)
        for length, begin in stretches
    )
    table = struct.pack(">I4sII", 16 + len(rows), b"elst", 0, len(stretches)) + rows
    box = struct.pack(">I4s", 8 + len(table), b"edts") + table
    before = next(iter(_find(data, track, b"edts")), _Box(media.at, 0, b""))
    data[before.at : before.at + before.size] = box
    for outer in (track, moov):
        struct.pack_into(">I", data, outer.at, outer.size + len(box) - before.size)
    path.write_bytes(data)
    return path


def _handler(data: bytes, track: _Box) -> bytes:
    at = _find(data, _find(data, track, b"mdia")[0], b"hdlr")[0].at
    return data[at + 16 : at + 20]


def _find(data: bytes, outer: _Box, kind: bytes) -> list[_Box]:
    return [box for box in _inside(data, outer.at + 8, outer.at + outer.size) if box.kind == kind]


def _inside(data: bytes, at: int, end: int) -> Iterator[_Box]:
    while at < end:
        box = _Box(at, *struct.unpack_from(">I4s", data, at))
        yield box
        at += box.size
