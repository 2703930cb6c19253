"""A cheap fingerprint of what a clip looks like, and which clips look alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import ffmpeg

from ltxcore.media.errors import MediaError
from ltxcore.media.ffmpeg_process import open_input, run_tool

LOOK_TIMEOUT_S = 60.0
ROWS, COLUMNS = 8, 8
BITS = 2 * ROWS * COLUMNS
ALIKE_BITS = 6
"""Clips whose looks differ by no more of their 128 bits are noted: a re-encode moves one or two."""
FEWEST_SET_BITS = 8
"""Plain pictures, such as a black beginning, all look alike and say nothing."""
_BANDS = ALIKE_BITS + 2


def look_of(path: Path, index: int, duration_s: float) -> str | None:
    """32 hex digits for the first picture and one from the middle; None where they are plain or unreadable.

    Difference hash: each picture at 9x8 in grey, one bit for each pixel that is brighter than its right
    neighbour. One ffmpeg, which decodes from the key frame before the middle: about 0.1 s for a clip of
    some seconds in 1080p, and not more for a long one.
    """
    size = (COLUMNS + 1, ROWS)
    pictures = [
        open_input(path, threads=1, **seek)[str(index)]
        .filter("trim", end_frame=1)
        .filter("setpts", "0")
        .filter("scale", *size, flags="area")
        .filter("format", "gray")
        for seek in ({}, {"ss": f"{duration_s / 2:.3f}"})
    ]
    both = ffmpeg.filter(pictures, "vstack", inputs=len(pictures)).output(
        "pipe:1", format="rawvideo", **{"frames:v": 1}
    )
    try:
        done = run_tool(both.compile(cmd=["ffmpeg", "-nostdin", "-nostats", "-v", "error"]), LOOK_TIMEOUT_S)
    except MediaError:
        # The look is a courtesy: a clip without one is judged by all else that is known of it.
        return None
    pixels = done.stdout
    if len(pixels) != 2 * ROWS * size[0]:
        return None
    rows = [pixels[row * size[0] : (row + 1) * size[0]] for row in range(2 * ROWS)]
    return look_of_rows(rows)


def look_of_rows(rows: Iterable[Sequence[int]]) -> str | None:
    """The look of two small grey pictures, given as 2 x 8 rows of 9 values."""
    bits = 0
    for row in rows:
        for left, right in pairwise(row):
            bits = bits << 1 | int(left > right)
    return f"{bits:032x}" if FEWEST_SET_BITS <= bits.bit_count() <= BITS - FEWEST_SET_BITS else None


def alike(looks: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """For (name, look) in order: each name that looks like an earlier one, with the first such.

    Two looks within `ALIKE_BITS` agree wholly in at least two of `_BANDS` pieces, so only those that share
    a piece are compared: the cost grows with the number of clips, not with its square.
    """
    seen: dict[tuple[int, int], list[tuple[str, int]]] = {}
    width = BITS // _BANDS
    for name, look in looks:
        bits = int(look, 16)
        pieces = [(band, bits >> (band * width) & ((1 << width) - 1)) for band in range(_BANDS)]
        near = (
            other
            for piece in pieces
            for other, its in seen.get(piece, ())
            if (its ^ bits).bit_count() <= ALIKE_BITS
        )
        original = next(near, None)
        if original is not None:
            yield name, original
            continue
        for piece in pieces:
            seen.setdefault(piece, []).append((name, bits))
