"""The recipe's batch size as the batch schedule takes it: one for all groups of samples, or one for each."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from ltxcore.config.batch_size import BatchSize, clips_of
from ltxcore.training.batch_entry import Entry

BatchSizes = int | Mapping[Any, int]
"""Clips a batch, or group of entries -> clips a batch."""


def batch_sizes(entries: Sequence[Entry], size: BatchSize) -> BatchSizes:
    """Raises: UndecidedBatchSize: the recipe names buckets, but not all that the entries have."""
    if isinstance(size, int):
        return size
    found: dict[Hashable, int] = {entry.group: clips_of(size, entry.bucket) for entry in entries}
    return found
