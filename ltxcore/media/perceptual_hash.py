"""A perceptual hash of a clip, and near duplicates by this hash."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ffmpeg
import numpy as np
import numpy.typing as npt

from ltxcore.media.errors import MediaError
from ltxcore.media.ffmpeg_process import FFMPEG, MOST_PIXELS, open_input, run_tool

HASH_TIMEOUT_S = 60.0
ROWS, COLUMNS = 8, 9
"""Size of the two small pictures that a look is made of."""
HASH_BYTES = 2 * ROWS * COLUMNS * 3
BITS = 2 * ROWS * (COLUMNS - 1)
ALIKE_BITS = 6
ALIKE_LEVELS = 8.0
"""Looks that differ by no more of their 128 bits, and on average by no more of 255 levels of colour, are
noted: a re-encode moves one or two of each."""
FEWEST_SET_BITS = 8
"""Plain pictures, such as a black beginning, all look alike and say nothing."""
MARGIN = 12
"""By how much of 765 a pixel must be brighter than the next one: noise in plain areas says nothing."""
_BANDS = ALIKE_BITS + 2
_HASH_DIGITS = BITS // 4


class Pictures(NamedTuple):
    """The picture track of a file."""

    track: int
    """Its place in the file."""
    duration_s: float
    most_pixels: int = MOST_PIXELS
    """The limit under which its pictures are decoded."""
    stored: tuple[int, int] = (0, 0)
    """Width and height in the file."""


class _Hash(NamedTuple):
    bits: int
    colours: npt.NDArray[np.int16]


def hash_of_clip(path: Path, pictures: Pictures) -> str | None:
    """The perceptual hash of a clip: of its first picture and one from its middle; None for plain pictures.

    One ffmpeg for both, which decodes from the key frame before the middle: a long clip costs no more.

    Raises:
        ToolMissing: ffmpeg is not installed.
    """
    command = hash_output(path, pictures).compile(cmd=[*FFMPEG, "-v", "error"])
    try:
        return read_hash(run_tool(command, HASH_TIMEOUT_S).stdout)
    except MediaError:
        # The look is a courtesy: a clip without one is judged by all else that is known of it.
        return None


def hash_output(path: Path, pictures: Pictures) -> Any:
    """ffmpeg-python's output of both small pictures, one above the other, to stdout."""
    both = [
        open_input(path, pictures.most_pixels, **seek)[str(pictures.track)]
        .filter("trim", end_frame=1)
        .filter("setpts", "0")
        .filter("scale", COLUMNS, ROWS, flags="area")
        .filter("format", "rgb24")
        for seek in ({}, {"ss": f"{pictures.duration_s / 2:.3f}"})
    ]
    stacked = ffmpeg.filter(both, "vstack", inputs=2)
    return stacked.output("pipe:1", format="rawvideo", pix_fmt="rgb24", **{"frames:v": 1})


def read_hash(pixels: bytes) -> str | None:
    """The hash of the output of `hash_output`; None if that is not both pictures."""
    if len(pixels) != HASH_BYTES:
        return None
    return hash_of_pictures(np.frombuffer(pixels, np.uint8).reshape(2, ROWS, COLUMNS, 3))


def hash_of_pictures(pictures: npt.NDArray[np.uint8]) -> str | None:
    """32 hex digits of a difference hash, then 72 of mean colours; None where both pictures are plain.

    The hash has one bit for each grey pixel that is clearly brighter than its right neighbour; the colours
    are those of 3x2 pieces.

    Args:
        pictures: uint8 RGB `[2, 8, 9, 3]`.
    """
    grey = pictures.astype(np.int32).sum(axis=-1)
    brighter = np.packbits((grey[..., :-1] > grey[..., 1:] + MARGIN).reshape(-1)).tobytes()
    if not FEWEST_SET_BITS <= int.from_bytes(brighter, "big").bit_count() <= BITS - FEWEST_SET_BITS:
        return None
    pieces = pictures.reshape(2, 2, ROWS // 2, 3, COLUMNS // 3, 3).mean(axis=(2, 4))
    return (brighter + pieces.round().astype(np.uint8).tobytes()).hex()


def alike(looks: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """For (name, hash) in order: each near duplicate of an earlier name, with the first such name.

    Two hashes within `ALIKE_BITS` agree wholly in at least two of `_BANDS` pieces, so only those that share
    a piece are compared: the cost grows with the number of clips, not with its square.
    """
    seen: dict[tuple[int, int], list[tuple[str, _Hash]]] = {}
    width = BITS // _BANDS
    for name, text in looks:
        look = _parse(text)
        pieces = [(band, look.bits >> (band * width) & ((1 << width) - 1)) for band in range(_BANDS)]
        near = (other for piece in pieces for other, its in seen.get(piece, ()) if _near(its, look))
        original = next(near, None)
        if original is not None:
            yield name, original
            continue
        for piece in pieces:
            seen.setdefault(piece, []).append((name, look))


def _parse(text: str) -> _Hash:
    colours: npt.NDArray[Any] = np.frombuffer(bytes.fromhex(text[_HASH_DIGITS:]), np.uint8)
    return _Hash(int(text[:_HASH_DIGITS], 16), colours.astype(np.int16))


def _near(one: _Hash, other: _Hash) -> bool:
    if (one.bits ^ other.bits).bit_count() > ALIKE_BITS:
        return False
    return bool(np.abs(one.colours - other.colours).mean() <= ALIKE_LEVELS)
