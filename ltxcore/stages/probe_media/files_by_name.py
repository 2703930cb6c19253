"""Files of other datasets, found by the name of the clip that they belong to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Generic, NamedTuple, TypeVar

from ltxcore.media.caption_names import composed, plain
from ltxcore.media.errors import MediaError

File = TypeVar("File")


FORMS: tuple[Callable[[str], str], ...] = (str, composed, plain)
"""How names are compared, one after the other: exactly, however accents are stored, in any letter case."""


class Named(NamedTuple, Generic[File]):
    """A file that has the name of a clip."""

    file: File
    note: str = ""
    """What a person should know of how it was found."""


class NamedFiles(Generic[File]):
    """Files by dataset and name."""

    def __init__(self) -> None:
        self._by_path: list[dict[tuple[str, str], list[tuple[str, File]]]] = [{} for _ in FORMS]
        self._by_stem: list[dict[tuple[str, str], list[tuple[str, File]]]] = [{} for _ in FORMS]

    def add(self, dataset: str, path: str, file: File) -> None:
        """Take in a file by its path inside its dataset."""
        name = PurePosixPath(path)
        for form, by_path, by_stem in zip(FORMS, self._by_path, self._by_stem, strict=True):
            by_path.setdefault((dataset, form(str(name.with_suffix("")))), []).append((path, file))
            by_stem.setdefault((dataset, form(name.stem)), []).append((path, file))

    def of_clip(self, dataset: str, clip: str, what: str) -> Named[File] | None:
        """The file of a dataset that has the name of a clip, or None.

        It fits by its path without extension, or, where no such path is there, by its bare stem: exactly
        first, then however accents are stored, then in any letter case,
        which is noted, as captions are found.

        Args:
            dataset: the id of the dataset.
            clip: the clip's path inside its own.
            what: what the file would be to the clip, for the error.

        Raises:
            MediaError: more than one fits.
        """
        name = PurePosixPath(clip)
        fitting: list[tuple[str, File]] = []
        used: Callable[[str], str] = str
        for form, by_path, by_stem in zip(FORMS, self._by_path, self._by_stem, strict=True):
            whole, stem = form(str(name.with_suffix(""))), form(name.stem)
            if not fitting:
                used = form
                fitting = by_path.get((dataset, whole)) or by_stem.get((dataset, stem), [])
        if len(fitting) > 1:
            names = ", ".join(path for path, _ in fitting)
            raise MediaError(f"has more than one {what} in {dataset}: {names}; keep one of them")
        if not fitting:
            return None
        path, file = fitting[0]
        return Named(file, f"its {what} is {path}: the letter case differs" if used is plain else "")
