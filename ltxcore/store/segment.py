"""One segment of an index: a JSON array of `[check, key, record]`, a line each.

The check covers the rest of its line, so the intact lines of a damaged segment can still be recognised. The
first line has no key: it has the number of records, whether a compaction wrote them, and the notes of `gc`
and `compact`.
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
    """The content of a segment."""

    records: dict[str, Record | None]
    """None: the key exists no more."""
    note: Record | None
    """What whoever tidied the store noted; None where nothing was."""
    is_base: bool
    """Whether it replaces every segment before it, as a compaction's does."""
    whole: bool
    """False where lines are damaged or gone; `records` has the others."""


def encode(
    records: Mapping[str, Record | None], note: Record | None = None, *, is_base: bool = False
) -> bytes:
    """The bytes of a segment."""
    lines = [_line(_HEADER, {"records": len(records), "note": note, "base": is_base})]
    lines += [_line(key, records[key]) for key in sorted(records)]
    return ("[\n" + ",\n".join(lines) + "\n]\n").encode()


def decode(data: bytes) -> Segment:
    """The content of a segment's intact lines, even if others are damaged."""
    records: dict[str, Record | None] = dict(_whole_lines(data))
    header = records.pop(_HEADER, None)
    if header is None:
        return Segment(records, None, is_base=False, whole=False)
    whole = header["records"] == len(records)
    return Segment(records, header["note"], header["base"], whole)


def _line(key: str, record: Record | None) -> str:
    rest = json.dumps([key, record], ensure_ascii=False, separators=(",", ":"), sort_keys=True)[1:]
    return f"{_START}{_check(rest.encode())}{_BETWEEN}{rest}"


def _whole_lines(data: bytes) -> list[tuple[str, Record | None]]:
    check_from = len(_START)
    check_to = check_from + _CHECK_DIGITS
    rest_from = check_to + len(_BETWEEN)
    whole = []
    for line in data.split(b"\n"):
        entry = line.removesuffix(b",")
        if entry[check_from:check_to] == _check(entry[rest_from:]).encode():
            whole.append(b"[" + entry[rest_from:])
    # One call for all: a store of ten thousand clips has many lines.
    entries: list[tuple[str, Record | None]] = json.loads(b"[" + b",".join(whole) + b"]")
    return entries


def _check(rest: bytes) -> str:
    return xxhash.xxh3_64_hexdigest(rest)
