"""Where the files of a job's datasets may lie."""

from __future__ import annotations

from ltxcore.config.dataset_kinds import ConditioningDataset, Media
from ltxcore.config.datasets import Datasets
from ltxcore.media.dataset_files import Bounds


def bounds_of(datasets: Datasets, dataset: Media | ConditioningDataset) -> Bounds:
    """What may be opened of a dataset: links may lead into the directories of all datasets of the job."""
    others = tuple(datasets.directory(other) for other in datasets.files if other.id != dataset.id)
    return Bounds(datasets.directory(dataset), dataset.follow_links, others)
