"""Work in batches: the unit of a Prefect task, of a commit, and of what a crash can lose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ltxcore.store.snapshot import Sample

T = TypeVar("T")


def in_batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Consecutive slices of at most `size` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def batches_of_tokens(
    texts: Sequence[str], count: Callable[[str], int], size: int, tokens: int
) -> Iterator[Sequence[str]]:
    """Consecutive texts, at most `size` and at most `tokens` tokens of them together; one at least."""
    batch: list[str] = []
    total = 0
    for text in texts:
        more = count(text)
        if batch and (len(batch) == size or total + more > tokens):
            yield batch
            batch, total = [], 0
        batch.append(text)
        total += more
    if batch:
        yield batch


@dataclass(frozen=True)
class Batch:
    """Samples of one bucket that are committed together."""

    bucket: str
    samples: tuple[Sample, ...]
    after: int
    """Samples of this bucket that come after this batch, for which room is made once."""
