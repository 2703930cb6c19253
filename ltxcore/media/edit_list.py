"""When the frames of an MP4 or MOV with several edits are shown: what libavformat makes of them is rounded.

It shows the right frames in the right order, but lets each edit begin with a whole frame and, of reordered
streams, up to some frames late, while the sound keeps its time. ISO/IEC 14496-12, 8.6.6.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from ltxcore.media.errors import MediaError

MOST_INDEX_BYTES = 64 << 20
"""Of a larger index the edits are not looked for: an hour of video has one of some megabytes."""
MOST_EDITS = 10_000
_INNER = {b"moov", b"trak", b"edts", b"mdia"}


class Edit(NamedTuple):
    """A stretch of a track as it is shown, in ticks of the track."""

    length: int
    begin: int | None
    """The media time of its beginning; None where nothing is shown."""


class Box(NamedTuple):
    """A box of the file: where what it holds begins and ends."""

    kind: bytes
    begin: int
    end: int


def read_edits(path: Path, track: int) -> list[Edit]:
    """The edits of the track of that place in the file, as written; none where there is no list.

    Raises:
        MediaError: nothing is shown between two edits, where players differ.
    """
    with path.open("rb") as file:
        moov = next(
            (box for box in _boxes(file, 0, os.fstat(file.fileno()).st_size) if box.kind == b"moov"), None
        )
        if moov is None or moov.end - moov.begin > MOST_INDEX_BYTES:
            return []
        inside = list(_boxes(file, moov.begin, moov.end))
        tracks = [box for box in inside if box.kind == b"trak"]
        movie = _scale(file, inside, b"mvhd")
        if track >= len(tracks) or movie is None:
            return []
        parts = list(_all(file, tracks[track]))
        ticks = _scale(file, parts, b"mdhd")
        table = next((box for box in parts if box.kind == b"elst"), None)
        if table is None or ticks is None:
            return []
        edits = [
            Edit(round(length * ticks / movie), begin if begin >= 0 else None)
            for length, begin in _rows(_content(file, table))
        ]
    shown = [at for at, edit in enumerate(edits) if edit.begin is not None]
    if shown and any(edit.begin is None for edit in edits[shown[0] : shown[-1]]):
        raise MediaError(
            "has an edit list with a gap, in which some players show nothing and others something else; "
            "export it anew, or convert it with `ffmpeg -i in.mp4 out.mp4`"
        )
    return edits


def shown_times(edits: Sequence[Edit], media_times: Sequence[int]) -> list[int]:
    """When frames are shown, in the order in which they are, in ticks of the track.

    Args:
        media_times: of all frames of the track without its edits, rising.
    """
    shown, now = [], 0
    for length, begin in edits:
        if begin is not None:
            first, last = bisect_left(media_times, begin), bisect_left(media_times, begin + length)
            shown += [now + time - begin for time in media_times[first:last]]
        now += length
    return shown


def _all(file: IO[bytes], box: Box) -> Iterator[Box]:
    for inner in _boxes(file, box.begin, box.end):
        yield inner
        if inner.kind in _INNER:
            yield from _all(file, inner)


def _boxes(file: IO[bytes], begin: int, end: int) -> Iterator[Box]:
    at = begin
    while at + 8 <= end:
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return
        size, kind = struct.unpack_from(">I4s", head)
        header = 8
        if size == 1 and len(head) == 16:
            header, size = 16, struct.unpack_from(">Q", head, 8)[0]
        elif size == 0:
            size = end - at
        if size < header or at + size > end:
            return
        yield Box(kind, at + header, at + size)
        at += size


def _content(file: IO[bytes], box: Box) -> bytes:
    file.seek(box.begin)
    return file.read(box.end - box.begin)


def _scale(file: IO[bytes], boxes: Sequence[Box], kind: bytes) -> int | None:
    """Ticks of a second, of a header of movie or media."""
    box = next((box for box in boxes if box.kind == kind), None)
    content = b"" if box is None else _content(file, box)
    at = 20 if content[:1] == b"\1" else 12
    return int.from_bytes(content[at : at + 4], "big") or None


def _rows(content: bytes) -> list[tuple[int, int]]:
    """Length in ticks of the movie, and begin in ticks of the track or -1."""
    form = ">QqI" if content[:1] == b"\1" else ">IiI"
    size = struct.calcsize(form)
    count = min(int.from_bytes(content[4:8], "big"), (len(content) - 8) // size, MOST_EDITS)
    return [struct.unpack_from(form, content, 8 + at * size)[:2] for at in range(max(0, count))]
