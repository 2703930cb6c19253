"""Files in a dataset's directory that no dataset takes: each gets its reason, so that none is lost."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ltxcore.config.dataset_kinds import ConditioningDataset, Media
from ltxcore.config.datasets import Datasets
from ltxcore.media.discover import media_files, sample_id, stray_captions, why_not_taken
from ltxcore.store.snapshot import Rejection

NOBODYS_CAPTION = "is a caption, but no file of its name is beside it"


def find_strays(datasets: Datasets, taken: Collection[Path], skip: tuple[Path, ...]) -> list[Rejection]:
    """Captions without a clip, and media files that no dataset takes: each once, in the first dataset there.

    Args:
        taken: the files that some dataset takes.
        skip: directories that are passed over (the workspace).
    """
    found: dict[Path, Rejection] = {}
    for dataset in datasets.files:
        root = datasets.directory(dataset)
        for path in media_files(root, skip):
            if path not in taken:
                found.setdefault(path, _rejection(dataset, root, path, why_not_taken(path, dataset)))
    for media in datasets.media:
        if media.caption_strategy == "textfile" and media.id not in datasets.linked_ids:
            root = datasets.directory(media)
            for path in stray_captions(root, skip):
                found.setdefault(path, _rejection(media, root, path, NOBODYS_CAPTION))
    return list(found.values())


def _rejection(dataset: Media | ConditioningDataset, root: Path, path: Path, reason: str) -> Rejection:
    return Rejection(
        id=sample_id(dataset, root, path),
        dataset=dataset.id,
        path=path.relative_to(root).as_posix(),
        reason=reason,
    )
