"""One segment of an index: a JSON array of `[check, key, record]`, a line each.

The check is of the rest of its line, so that of a segment that a disk has damaged every whole line can still
be told from the others. The first line has no key: it says how many records follow, and what a compaction
noted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import xxhash

Record = dict[str, Any]

_HEADER = ""
_CHECK_DIGITS = 16
_START, _BETWEEN = '["', '",'


@dataclass(frozen=True)
class Segment:
    """What a segment says."""

    records: dict[str, Record | None]
    """None: the key exists no more."""
    base: Record | None
    """The note of a compaction, which replaces every segment before this one."""
    whole: bool
    """False where lines are damaged or gone; `records` has the others."""


def encode(records: Mapping[str, Record | None], base: Record | None = None) -> bytes:
    """The bytes of a segment."""
    lines = [_line(_HEADER, {"records": len(records), "base": base})]
    lines += [_line(key, records[key]) for key in sorted(records)]
    return ("[\n" + ",\n".join(lines) + "\n]\n").encode()


def decode(data: bytes) -> Segment:
    """What the whole lines of a segment say, whatever has become of the others."""
    records: dict[str, Record | None] = dict(_whole_lines(data))
    header = records.pop(_HEADER, None)
    if header is None:
        return Segment(records, None, whole=False)
    return Segment(records, header["base"], whole=header["records"] == len(records))


def _line(key: str, record: Record | None) -> str:
    rest = json.dumps([key, record], ensure_ascii=False, separators=(",", ":"), sort_keys=True)[1:]
    return f"{_START}{_check(rest.encode())}{_BETWEEN}{rest}"


def _whole_lines(data: bytes) -> list[tuple[str, Record | None]]:
    check_from = len(_START)
    check_to = check_from + _CHECK_DIGITS
    rest_from = check_to + len(_BETWEEN)
    whole = []
    for line in data.split(b"\n"):
        told = line.removesuffix(b",")
        if told[check_from:check_to] == _check(told[rest_from:]).encode():
            whole.append(b"[" + told[rest_from:])
    # One call for all: a store of ten thousand clips has many lines.
    entries: list[tuple[str, Record | None]] = json.loads(b"[" + b",".join(whole) + b"]")
    return entries


def _check(rest: bytes) -> str:
    return xxhash.xxh3_64_hexdigest(rest)
