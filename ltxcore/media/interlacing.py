"""Interlaced frames: two fields, half a frame apart in time. A model should not learn their combs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import ffmpeg
import numpy as np
import numpy.typing as npt

from ltxcore.media.ffmpeg_process import open_input, run_tool
from ltxcore.media.perceptual_hash import Pictures

Picture = npt.NDArray[np.uint8]
FieldOrder = Literal["tff", "bff"]
"""Which field of a frame is the earlier one: the top or the bottom one."""
SAMPLED_FRAMES = 48
"""At the beginning and from the middle on."""
SAMPLE_TIMEOUT_S = 120.0
FEWEST_COMBED, LEAST_SHARE, LEAST_ODDS = 8, 0.75, 10
"""So many frames must be combed, so much of those that say anything, and so many times more in one order than
in the other: noise and fine patterns look combed now and then, in either order."""
LEAST_ALIKE = 0.7
"""1 of fields, 0 of whole frames. Slow slanting patterns at 60 fps have 0.7, and fields 0.8 to 1.2, less
where the encoder was coarse (bench/results, interlacing)."""
LEAST_ODD = 0.65
"""Slow patterns that go up or down have at most 0.56 where they look like fields, and fields from 0.72."""
LEAST_MOVED, LEAST_LEVELS = 0.1, 0.02
"""By so much of those shown, and so many levels, far fields must be more combed: fine lines that flicker have
0.05."""
BLOCK, LINES = 16, 2
"""Changes are looked at in blocks of so many pixels, and moved by so many lines."""
LOOKED_AT_FRAMES, LOOKED_AT_COLUMNS = 8, 1920
_COUNTED = re.compile(rb"Multi frame detection: TFF:\s*(\d+) BFF:\s*(\d+) Progressive:\s*(\d+)")


class Combs(NamedTuple):
    """How much the lines of frames differ from those above and below, on average, in levels of 255."""

    shown: float
    """Of the frames as they are."""
    near: float
    """With the later field of each frame and the earlier one of the next."""
    far: float
    """With the earlier field of each frame and the later one of the next."""
    odd: float
    """The share of all changes from frame to frame that no move by one or two lines explains."""

    def certainty(self) -> float:
        """More than 1 where the frames are made of fields.

        Of fields, `near` ones are half a frame apart, as the shown ones are, and `far` ones three halves. Of
        whole frames the shown ones are of one moment, and near and far ones are both a frame apart. So
        `(far - near) / (far - shown)` is 1 of fields and 0 of whole frames, whatever they show: patterns and
        noise are in all three. An encoder that smooths combs takes from the shown ones.
        """
        moved = self.far - self.shown
        if moved <= 0:
            return 0.0
        alike = (self.far - self.near) / moved
        least = max(LEAST_MOVED * self.shown, LEAST_LEVELS)
        sure = min(alike / LEAST_ALIKE, (2 - alike) / LEAST_ALIKE, moved / least, self.odd / LEAST_ODD)
        return float(sure)


class FieldCounts(NamedTuple):
    """What ffmpeg's idet takes frames for."""

    top: int
    bottom: int
    whole: int

    @property
    def order(self) -> FieldOrder:
        """The order of the fields, if they are fields."""
        return "tff" if self.top > self.bottom else "bff"

    def certainty(self) -> float:
        """At least 1 where the frames seem to be made of fields in one order."""
        most, least = max(self.top, self.bottom), min(self.top, self.bottom)
        share = most / max(1, most + least + self.whole)
        odds = most / (LEAST_ODDS * least) if least else math.inf
        return min(most / FEWEST_COMBED, odds, share / LEAST_SHARE)


def find_field_order(path: Path, pictures: Pictures) -> FieldOrder | None:
    """The order of the fields of frames that do not say that they have any, from samples of them.

    None where they are whole, or nothing moves. ffmpeg's idet compares frames with those beside them, and
    takes what moves upwards or downwards for fields now and then; so there must be combs, too, that fit the
    order. To make whole frames of whole frames costs half of their lines, so doubt is no.

    Raises:
        Undecided: ffmpeg took too long, or was stopped.
        ToolMissing: it is not installed.
    """
    counts = count_fields(path, pictures)
    if counts.certainty() < 1:
        return None
    shown = (combs.certainty() > 1 for combs in find_combs(path, pictures, counts.order))
    return counts.order if any(shown) else None


def count_fields(path: Path, pictures: Pictures) -> FieldCounts:
    """What idet takes frames of the beginning and of the middle for.

    Raises:
        Undecided: ffmpeg took too long, or was stopped.
        ToolMissing: it is not installed.
    """
    samples = [
        _sample(path, pictures, start_s, SAMPLED_FRAMES).filter("idet").output("pipe:", format="null")
        for start_s in (0.0, pictures.duration_s / 2)
    ]
    command = ffmpeg.merge_outputs(*samples).compile(cmd=["ffmpeg", "-nostdin", "-nostats", "-v", "info"])
    found = _COUNTED.findall(run_tool(command, SAMPLE_TIMEOUT_S).stderr)
    return FieldCounts(*(sum(int(counts[kind]) for counts in found) for kind in range(3)))


def find_combs(path: Path, pictures: Pictures, order: FieldOrder) -> Iterator[Combs]:
    """The combs of frames of the beginning, and of the middle, if their fields are in an order.

    Raises:
        Undecided: ffmpeg took too long, or was stopped.
        ToolMissing: it is not installed.
    """
    starts = (0.0, pictures.duration_s / 2)
    return (combs_of(_frames(path, pictures, start_s), order) for start_s in starts)


def _sample(path: Path, pictures: Pictures, start_s: float, frames: int) -> Any:
    seek = {"ss": f"{start_s:.3f}"} if start_s else {}
    opened = open_input(path, pictures.most_pixels, **seek)[str(pictures.track)]
    return opened.filter("trim", end_frame=frames)


def _frames(path: Path, pictures: Pictures, start_s: float) -> Picture:
    width, height = pictures.stored
    columns = min(width, LOOKED_AT_COLUMNS)
    middle = _sample(path, pictures, start_s, LOOKED_AT_FRAMES).filter("format", "gray")
    grey = middle.filter("crop", columns, height).output("pipe:1", format="rawvideo", fps_mode="passthrough")
    command = grey.compile(cmd=["ffmpeg", "-nostdin", "-nostats", "-v", "error"])
    read = np.frombuffer(run_tool(command, SAMPLE_TIMEOUT_S).stdout, np.uint8)
    return read[: len(read) // (columns * height) * columns * height].reshape(-1, height, columns)


def combs_of(frames: Picture, order: FieldOrder) -> Combs:
    """The combs of frames `[F, H, W]`, on average; no combs of a single frame."""
    earlier = 0 if order == "tff" else 1
    found = [
        (
            (_roughness(before) + _roughness(after)) / 2,
            _roughness(_woven(after, before, earlier)),
            _roughness(_woven(before, after, earlier)),
            *_changes(before, after),
        )
        for before, after in pairwise(frames)
    ]
    if not found:
        return Combs(0.0, 0.0, 0.0, 0.0)
    shown, near, far, odd, changed = (float(value) for value in np.mean(found, axis=0))
    return Combs(shown, near, far, odd / max(changed, LEAST_LEVELS))


def _woven(early: Picture, late: Picture, earlier: int) -> Picture:
    """The earlier field of one frame between the later field of another."""
    woven = late.copy()
    woven[earlier::2] = early[earlier::2]
    return woven


def _changes(before: Picture, after: Picture) -> tuple[float, float]:
    """How much two frames `[H, W]` differ where they do, after the best move up or down, and without one."""
    old, new = before.astype(np.int16), after.astype(np.int16)[LINES:-LINES]
    height = len(new)
    moved = {
        lines: _of_blocks(np.abs(new - old[LINES + lines : LINES + lines + height]))
        for lines in range(-LINES, LINES + 1)
    }
    changed = np.where(moved[0] > 1, moved[0], 0.0)
    odd = np.minimum(changed, np.minimum.reduce(list(moved.values())))
    return float(odd.mean()), float(changed.mean())


def _of_blocks(levels: npt.NDArray[np.int16]) -> npt.NDArray[np.float64]:
    """The mean of each block of a picture, without what is left over at its right and lower edges."""
    rows, columns = (max(1, edge // BLOCK) for edge in levels.shape)
    height, width = min(BLOCK, levels.shape[0]), min(BLOCK, levels.shape[1])
    whole = levels[: rows * height, : columns * width]
    return whole.reshape(rows, height, columns, width).mean(axis=(1, 3))


def _roughness(picture: Picture) -> float:
    lines = picture.astype(np.int16)
    return float(np.abs(2 * lines[1:-1] - lines[:-2] - lines[2:]).mean()) / 2


def deinterlaced(pictures: Any, time_base: str, order: FieldOrder | None) -> Any:
    """Filters that make one whole picture of each frame that says that it is interlaced (bwdif).

    Frames that say nothing of the kind, and all times, stay as they are.

    Args:
        order: of the fields of all frames, where the frames themselves do not say it.
    """
    woven = pictures if order is None else pictures.filter("setfield", order)
    which = "interlaced" if order is None else "all"
    whole = woven.filter("bwdif", mode="send_frame", parity="auto", deint=which)
    # The filter halves the ticks; frames are found by theirs.
    return whole.filter("settb", time_base)
