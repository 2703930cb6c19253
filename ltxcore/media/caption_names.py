"""Finds a file's caption: by its exact name first, then ignoring case and how accents are stored."""

from __future__ import annotations

import os
import time
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ltxcore.media.errors import MediaError

CAPTION = ".txt"
_SETTLED_NS = 2_000_000_000
"""A directory that changed more recently may change again within the same tick of its clock."""


class CaptionFile(NamedTuple):
    """The file that holds a caption."""

    path: Path
    note: str = ""
    """What a person should know of how it was found."""


def caption_names(path: Path) -> tuple[str, str]:
    """`clip.mp4.txt`, which wins, so that clip.mp4 and clip.mov can differ; and `clip.txt`."""
    return f"{path.name}{CAPTION}", f"{path.stem}{CAPTION}"


def find_caption(path: Path) -> CaptionFile | None:
    """The caption file of a clip, or None.

    The exact names come first. Then come names in another Unicode form (NFC and NFD differ between macOS and
    others), and last names that differ only in letter case, with a note.

    Raises:
        MediaError: several files differ from the clip's name in letter case alone.
    """
    names = caption_names(path)
    for name in names:
        if os.path.lexists(beside := path.with_name(name)):
            return CaptionFile(beside)
    by_name = _names(path.parent)
    for name in names:
        found = by_name.get(plain(name), ())
        alike = [other for other in found if composed(other) == composed(name)]
        if len(alike or found) > 1:
            listed = " and ".join(sorted(alike or found))
            raise MediaError(f"has more than one caption by its name: {listed}; keep one of them")
        if alike:
            return CaptionFile(path.with_name(alike[0]))
        if found:
            return CaptionFile(
                path.with_name(found[0]), f"its caption is {found[0]}: the letter case differs"
            )
    return None


def plain(name: str) -> str:
    """A name in one Unicode form and one letter case."""
    return composed(composed(name).casefold())


def composed(name: str) -> str:
    """One way to store accents (NFC)."""
    return unicodedata.normalize("NFC", name)


def _names(directory: Path) -> dict[str, tuple[str, ...]]:
    """The caption files of a directory by their plain names; listed once while it does not change."""
    try:
        info = directory.stat()
    except OSError:
        return {}
    if time.time_ns() - max(info.st_mtime_ns, info.st_ctime_ns) < _SETTLED_NS:
        return _list(directory)
    return _remembered(directory, info.st_mtime_ns, info.st_ctime_ns)


@lru_cache(maxsize=64)
def _remembered(directory: Path, *_when: int) -> dict[str, tuple[str, ...]]:
    return _list(directory)


def _list(directory: Path) -> dict[str, tuple[str, ...]]:
    try:
        names = os.listdir(directory)  # noqa: PTH208 - names alone
    except OSError:
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        if name.lower().endswith(CAPTION):
            key = plain(name)
            found[key] = (*found.get(key, ()), name)
    return found
