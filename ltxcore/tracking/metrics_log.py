"""Reads a metrics file that a training is still writing: whole lines only, from the last position."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ltxcore.config.base import Strict

STEP, DURATION, MEASURES, WEIGHTS = "step", "step_s", "measures", "weights"


class Position(Strict):
    """A place after a whole line of a metrics file, and how to know the file again."""

    offset_bytes: int = 0
    line_bytes: int = 0
    line_sha256: str = ""
    """Length and hash of the line that ends at the offset."""
    elapsed_s: float = 0.0
    """Training time up to here: the sum of `step_s`."""


@dataclass(frozen=True)
class Line:
    """The numbers of one line, and the place after it."""

    step: int
    numbers: dict[str, float]
    after: Position


@dataclass(frozen=True)
class Reading:
    """What a metrics file holds after a position."""

    lines: tuple[Line, ...]
    unreadable: int
    """Whole lines that are no JSON object, e.g. one that a crash cut short and a later write completed."""


def read_lines(path: Path, start: Position | None = None) -> Reading:
    """The lines of a metrics file after `start`; from its beginning where the file was rewritten since.

    A line is a JSON object with an integer `step`. Numbers in it, and in its object `measures`, are metrics
    (NaN and infinities too), and so are those in `weights`, as `<part>_weight`; everything else is for
    people. A last line without its end is left for the next reading. No file is no lines.
    """
    if not path.exists():
        return Reading((), 0)
    with path.open("rb") as file:
        at = start if start is not None and _still_there(file, start) else Position()
        file.seek(at.offset_bytes)
        data = file.read()
    lines, unreadable = [], 0
    for text in data.split(b"\n")[:-1]:
        raw = text + b"\n"
        parsed = _parse(raw)
        seconds = 0.0 if parsed is None else parsed[1].get(DURATION, 0.0)
        at = Position(
            offset_bytes=at.offset_bytes + len(raw),
            line_bytes=len(raw),
            line_sha256=_digest(raw),
            elapsed_s=at.elapsed_s + (seconds if 0 < seconds < float("inf") else 0.0),
        )
        if parsed is None:
            unreadable += 1
        else:
            lines.append(Line(*parsed, at))
    return Reading(tuple(lines), unreadable)


def _still_there(file: BinaryIO, position: Position) -> bool:
    file.seek(position.offset_bytes - position.line_bytes)
    return position.offset_bytes == 0 or _digest(file.read(position.line_bytes)) == position.line_sha256


def _parse(raw: bytes) -> tuple[int, dict[str, float]] | None:
    try:
        data = json.loads(raw)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    if not isinstance(data, dict) or type(data.get(STEP)) is not int:
        return None
    measures, weights = (data.get(name) for name in (MEASURES, WEIGHTS))
    every = data | measures if isinstance(measures, dict) else data
    if isinstance(weights, dict):
        every = every | {f"{part}_weight": weight for part, weight in weights.items()}
    numbers = {key: float(v) for key, v in every.items() if key != STEP and type(v) in (int, float)}
    return data[STEP], numbers


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
