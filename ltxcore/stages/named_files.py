"""Files of other datasets, found by the name of the clip that they belong to."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Generic, TypeVar

from ltxcore.media.errors import MediaError

File = TypeVar("File")


class NamedFiles(Generic[File]):
    """Files by dataset and name."""

    def __init__(self) -> None:
        self._by_path: dict[tuple[str, str], list[tuple[str, File]]] = {}
        self._by_stem: dict[tuple[str, str], list[tuple[str, File]]] = {}

    def add(self, dataset: str, path: str, file: File) -> None:
        """Take in a file by its path inside its dataset."""
        name = PurePosixPath(path)
        self._by_path.setdefault((dataset, str(name.with_suffix(""))), []).append((path, file))
        self._by_stem.setdefault((dataset, name.stem), []).append((path, file))

    def of_clip(self, dataset: str, clip: str, what: str) -> File | None:
        """The file of a dataset that has the name of a clip, or None.

        It fits by its path without extension, or, where no such path is there, by its bare stem.

        Args:
            dataset: the id of the dataset.
            clip: the clip's path inside its own.
            what: what the file would be to the clip, for the error.

        Raises:
            MediaError: more than one fits.
        """
        name = PurePosixPath(clip)
        fitting = self._by_path.get((dataset, str(name.with_suffix("")))) or self._by_stem.get(
            (dataset, name.stem), []
        )
        if len(fitting) > 1:
            names = ", ".join(path for path, _ in fitting)
            raise MediaError(f"has more than one {what} in {dataset}: {names}; keep one of them")
        return fitting[0][1] if fitting else None
