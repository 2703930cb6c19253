"""Files in a dataset's directory that no dataset takes: each gets its reason, so that none is lost."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from ltxcore.config.dataset_kinds import ConditioningDataset, Media
from ltxcore.config.datasets import Datasets
from ltxcore.media.discover import (
    captions_without_a_file,
    entries,
    lies_beside_media,
    recorded_path,
    sample_id,
    why_not_taken,
)
from ltxcore.pipeline.base.context import Context
from ltxcore.stages.probe_media.bounds import bounds_of
from ltxcore.stages.probe_media.media_files import MediaFile
from ltxcore.store.snapshot import Rejection

NOBODYS_CAPTION = "is a caption, but no file of its name is beside it"


def find_files_not_taken(
    datasets: Datasets, taken: Collection[Path], skip: tuple[Path, ...]
) -> list[Rejection]:
    """Captions without a clip, and files that no dataset takes: each once, in the first dataset there.

    Args:
        taken: the files that some dataset takes.
        skip: directories that are passed over (the workspace).
    """
    found: dict[Path, Rejection] = {}
    files = {path.resolve() for path in _configuration(datasets)}
    for dataset in datasets.files:
        bounds = bounds_of(datasets, dataset)
        for entry in entries(bounds, skip):
            path = entry.path
            if path in taken or path in found or lies_beside_media(path) or path.resolve() in files:
                continue
            found[path] = _rejection(dataset, bounds.root, path, why_not_taken(entry, dataset, bounds))
    for media in datasets.media:
        if media.caption_strategy == "textfile" and media.id not in datasets.linked_ids:
            bounds = bounds_of(datasets, media)
            for path in captions_without_a_file(bounds, skip):
                found.setdefault(path, _rejection(media, bounds.root, path, NOBODYS_CAPTION))
    return list(found.values())


def _configuration(datasets: Datasets) -> list[Path]:
    """The dataset file and the tables that it names."""
    return [datasets.source, *(Path(d.parquet.path) for d in datasets.media if d.parquet is not None)]


def _rejection(dataset: Media | ConditioningDataset, root: Path, path: Path, reason: str) -> Rejection:
    return Rejection(
        id=sample_id(dataset, root, path),
        dataset=dataset.id,
        path=recorded_path(root, path),
        reason=reason,
    )


def files_not_taken(ctx: Context, files: Sequence[MediaFile]) -> list[Rejection]:
    """What lies in the datasets' directories and is in none of `files`, the files of all datasets."""
    return find_files_not_taken(ctx.datasets, {file.path for file in files}, (ctx.workspace.root,))
