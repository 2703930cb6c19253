"""Removes from captions what `caption_filter_list` matches."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

FILES = (".txt", ".json")
_SPACES = re.compile(r"[ \t]{2,}")
_REPLACEMENT = re.compile(r"s/((?:[^/\\]|\\.)+)/((?:[^/\\]|\\.)*)/?")


def names_file(entries: Sequence[str]) -> bool:
    """Whether a list of filters is the name of a file that holds them."""
    return len(entries) == 1 and entries[0].lower().endswith(FILES)


def read_filters(entries: Sequence[str]) -> tuple[str, ...]:
    """The filters of a list, or of the file that it names, in order. Each is checked.

    Raises:
        ValueError: the file is missing or is no list of texts, or a filter is no regular expression.
    """
    filters = list(entries)
    if names_file(entries):
        filters = _from_file(Path(entries[0]))
    for text in filters:
        _compiled(text)
    return tuple(filters)


def filter_caption(caption: str, filters: Sequence[str]) -> str:
    """The caption after every filter, in order, with double spaces removed."""
    for text in filters:
        pattern, replacement = _compiled(text)
        caption = pattern.sub(replacement, caption)
    return _SPACES.sub(" ", caption).strip() if filters else caption


@lru_cache(maxsize=1024)
def _compiled(text: str) -> tuple[re.Pattern[str], str]:
    sed = _REPLACEMENT.fullmatch(text)
    source, replacement = (sed[1], sed[2]) if sed else (text, "")
    source, replacement = source.replace(r"\/", "/"), replacement.replace(r"\/", "/")
    try:
        pattern = re.compile(source)
        pattern.sub(replacement, "")
    except (re.error, IndexError) as error:
        raise ValueError(
            f"{text!r} is not a regular expression: {error}; write `\\` before a sign that stands for itself"
        ) from error
    return pattern, replacement


def _from_file(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    if file.suffix.lower() == ".txt":
        return [line for line in text.splitlines() if line.strip()]
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise ValueError(f"{file} must be a JSON list of texts")
    return found
