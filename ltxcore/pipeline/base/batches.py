"""Work in batches: the unit of a Prefect task, of a commit, and of what a crash can lose."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, TypeVar

from ltxcore.pipeline.base.work import Assignment, Place, Work, loaded
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


def bucket_batches(
    buckets: Mapping[str, Sequence[Sample]], waits: Callable[[Sample], bool], size: Callable[[Sample], int]
) -> list[Batch]:
    """The samples that wait, bucket by bucket, in a fixed order.

    Args:
        buckets: name -> samples of equal shape.
        waits: whether there is anything to do for a sample.
        size: how many samples of the shape of this one are committed together.
    """
    batches = []
    for bucket, samples in buckets.items():
        waiting = [sample for sample in samples if waits(sample)]
        left = len(waiting)
        for taken in in_batches(waiting, size(samples[0])):
            left -= len(taken)
            batches.append(Batch(bucket, tuple(taken), left))
    return batches


class BatchModels(Protocol):
    """The models of a stage, loaded, and the store that they fill."""

    def commit_batch(self, batch: Batch, on_clip: Callable[[], None]) -> None:
        """Do what a batch misses and commit it: all of it, or, after a crash, none of it.

        Needs the caller to hold the writer's lock of the part of the store.

        Args:
            batch: what to do.
            on_clip: is called after each clip.

        Raises:
            ClipsUndecided: some clips could not be read for reasons that may pass; the others are committed.
        """


Models = TypeVar("Models", bound=BatchModels)


class BatchWork(Work[Batch], Generic[Models]):
    """A work whose units are batches of clips that models look at, planned before these are loaded."""

    counted: ClassVar[str] = "clips"

    def __init__(self, asked: Assignment, batches: Sequence[Batch]) -> None:
        super().__init__(asked)
        self._batches = batches
        self.models: Models | None = None
        """Once they are loaded."""

    def total(self) -> int:
        return sum(len(batch.samples) for batch in self._batches)

    def load(self, place: Place) -> None:
        super().load(place)
        self.models = self.load_models(place.device)

    @abstractmethod
    def load_models(self, device: str) -> Models:
        """Load the models onto a device, as the recipe of the context says."""

    def units(self) -> Sequence[Batch]:
        return self._batches

    def do(self, unit: Batch) -> None:
        loaded(self.models).commit_batch(unit, self.asked.progress.advance)
