"""The media files of the datasets, as they are found."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ltxcore.config.dataset_kinds import AudioDataset, ConditioningDataset, ImageDataset, Media, VideoDataset
from ltxcore.media.dataset_files import Bounds, check_inside
from ltxcore.media.discover import content_as_read, kinds_of, list_files, read_as, sample_id
from ltxcore.media.errors import MediaError
from ltxcore.media.wanted import Wanted, wanted_of
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.data.content_guard import memo_key
from ltxcore.stages.probe_media.bounds import bounds_of
from ltxcore.store.fingerprint import FileIdentity
from ltxcore.store.snapshot import Kind


@dataclass(frozen=True)
class MediaFile:
    """A file that was found in a dataset."""

    dataset: Media | ConditioningDataset
    bounds: Bounds
    path: Path

    @property
    def root(self) -> Path:
        """The dataset's directory."""
        return self.bounds.root

    @property
    def kind(self) -> Kind:
        """As what it is looked at: of an audio_only video dataset only the sound is wanted."""
        if isinstance(self.dataset, ConditioningDataset):
            if self.dataset.holds_sounds:
                return "audio"
            return "image" if read_as(self.path) == "picture" else "video"
        if isinstance(self.dataset, ImageDataset):
            return "image"
        alone = isinstance(self.dataset, VideoDataset) and self.dataset.audio.audio_only
        return "audio" if alone or isinstance(self.dataset, AudioDataset) else "video"

    @property
    def wanted(self) -> Wanted:
        """What the file's dataset asks of it."""
        return wanted_of(self.dataset)

    @property
    def id(self) -> str:
        """The sample's id: dataset and path within it."""
        return sample_id(self.dataset, self.root, self.path)

    @property
    def name(self) -> str:
        """The path inside the dataset, as text."""
        return self.id.removeprefix(f"{self.dataset.id}/")

    @property
    def memo_key(self) -> str:
        """The key under which the memo keeps what was read of the file."""
        return memo_key(str(self.root), self.name)


def readable_identity(path: Path) -> FileIdentity | None:
    """None for a file that is not there, as it may vanish meanwhile, or that may not be read.

    A change of permissions moves neither size nor time, and must be noticed nevertheless.
    """
    try:
        return FileIdentity.of(path) if os.access(path, os.R_OK) else None
    except OSError:
        return None


def find_files(ctx: Context) -> list[MediaFile]:
    """The media files of all datasets, in a fixed order."""
    found = []
    skip = (ctx.workspace.root,)
    for dataset in ctx.datasets.files:
        bounds = bounds_of(ctx.datasets, dataset)
        found += [MediaFile(dataset, bounds, path) for path in list_files(dataset, bounds, skip)]
    return _each_by_its_content(found)


def _each_by_its_content(files: Sequence[MediaFile]) -> list[MediaFile]:
    """Without those that another dataset takes for what they hold, whatever their ending promises here."""
    kinds: dict[Path, set[frozenset[str]]] = {}
    for file in files:
        kinds.setdefault(file.path, set()).add(kinds_of(file.dataset))
    held: dict[Path, str | None] = {}
    for file in files:
        if len(kinds[file.path]) > 1 and held.get(file.path) is None:
            held[file.path] = _kind_held(file)

    def is_anothers(file: MediaFile) -> bool:
        kind = held.get(file.path)
        known = kind is not None and any(kind in wanted for wanted in kinds[file.path])
        return known and kind not in kinds_of(file.dataset)

    return [file for file in files if not is_anothers(file)]


def _kind_held(file: MediaFile) -> str | None:
    """What a file holds; None where it may not be looked into from its dataset, as its probe will say."""
    try:
        check_inside(file.path, file.bounds)
    except MediaError:
        return None
    return content_as_read(file.path).kind
