"""Finds the directories and files that a dataset file names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ltxcore.config.caption_filters import names_file

LEVELS_ABOVE_JSON = 2
SAMPLES = "datasets/glimmer"
"""Where `ltx2 samples` puts its clips if nothing else is said, and the shipped dataset file has them."""


def find_directory(source: Path, name: str) -> Path:
    """The directory that a dataset file means.

    A multidatabackend.json lies in `config/` or deeper and names directories from the project's root, so
    for JSON the directories above the file's own are looked into as well, the nearest first.
    """
    places = _places(source, name)
    return next((place for place in places if place.is_dir()), places[0])


def find_table(source: Path, name: str, directory: Path) -> Path | None:
    """The table of captions that a dataset file means: found like `directory`, or inside it."""
    places = [*_places(source, name), directory / Path(name).expanduser()]
    return next((place for place in places if place.is_file()), None)


def find_filters(source: Path, entries: Sequence[str]) -> tuple[str, ...]:
    """A caption_filter_list with the path of the file that it names, found like directories."""
    if not names_file(entries):
        return tuple(entries)
    places = _places(source, entries[0])
    return (str(next((place for place in places if place.is_file()), places[0])),)


def leads_out(source: Path, name: str, directory: Path | None, roots: Sequence[Path]) -> bool:
    """Whether a file's path is inside one of the directories, but its real path outside all of them.

    Args:
        directory: what it may be relative to besides the dataset file.
        roots: directories without links.
    """

    def inside(place: Path) -> bool:
        return any(place.is_relative_to(root) for root in roots)

    places = _written(source, name) + ([] if directory is None else [directory / Path(name).expanduser()])
    file = next((place for place in places if place.is_file()), None)
    if file is None or inside(file.resolve()):
        return False
    # Without `..`: who writes clips/../captions.json names a file beside the clips.
    plain = Path(os.path.normpath(file.absolute()))
    return any(inside(above.resolve()) for above in plain.parents)


def _places(source: Path, name: str) -> list[Path]:
    return [place.resolve() for place in _written(source, name)]


def _written(source: Path, name: str) -> list[Path]:
    """The places that a name may mean, with the links that are on the way there."""
    wanted = Path(name).expanduser()
    if source.suffix != ".json" or wanted.is_absolute():
        return [source.parent / wanted]
    return [level / wanted for level in source.resolve().parents[: 1 + LEVELS_ABOVE_JSON]]
