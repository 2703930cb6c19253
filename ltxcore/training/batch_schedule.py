"""Which samples are in which batch: a pure function of seed and position, so that resuming needs no replay.

Every draw is a hash of what it belongs to, not the next number of a generator: adding a clip changes no
other clip's caption, and batch 10,000 is known without drawing the 9,999 before it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil

from ltxcore.config.recipe import Recipe
from ltxcore.config.training_settings import TrainingSettings
from ltxcore.store.fingerprint import SEED_BITS, derive_seed
from ltxcore.training.batch_entry import Entry, Group
from ltxcore.training.batch_sizes import BatchSizes, batch_sizes

STAGE = "train-lora"


class NothingToTrain(ValueError):
    """No sample at all."""


class BucketTooSmall(ValueError):
    """The problem of a bucket that does not fill a batch."""


@dataclass(frozen=True)
class Visit:
    """One visit of a sample."""

    sample_id: str
    caption: int | None
    """Index of the caption; None is the empty caption."""


ScheduledBatch = tuple[Visit, ...]


def schedule_epoch(
    entries: Sequence[Entry],
    *,
    seed: int,
    epoch: int,
    batch_size: BatchSizes,
    caption_dropout: float,
    by_bucket: bool = False,
) -> tuple[ScheduledBatch, ...]:
    """The batches of an epoch, in order.

    Each sample is visited `visits` times. Of the visits that share a group and a probability p, the
    rounded share p (at least one) is kept; which ones changes with the epoch, how many does not, so all
    epochs have equally many batches. Visits are shuffled inside their group and cut into batches of
    `batch_size`, one for all groups or each its own; what is left over forms one smaller batch, so that no
    sample is seen more often than its visits say. The batches of all groups are then shuffled together, or,
    `by_bucket`, group after group, the groups in a new order each epoch.
    """
    batches: list[tuple[tuple[int, int], ScheduledBatch]] = []
    for group, members in sorted(_groups(entries).items()):
        visits = _shuffled_visits(members, seed, epoch)
        size = batch_size if isinstance(batch_size, int) else batch_size[group]
        place = derive_seed(seed, STAGE, epoch, *map(str, group), "group order") if by_bucket else 0
        for number, start in enumerate(range(0, len(visits), size)):
            batch = tuple(
                Visit(entry.sample_id, _caption(entry, visit, seed, epoch, caption_dropout))
                for entry, visit in visits[start : start + size]
            )
            order = derive_seed(seed, STAGE, epoch, *map(str, group), number, "batch order")
            batches.append(((place, order), batch))
    return tuple(batch for _, batch in sorted(batches, key=lambda keyed: keyed[0]))


def check_buckets(entries: Sequence[Entry], settings: TrainingSettings) -> None:
    """Check that each group fills a batch at least once in an epoch, if there is one batch size for all.

    Raises:
        BucketTooSmall: one does not, and the recipe does not allow it; says what would fill it.
    """
    size = settings.train_batch_size
    if settings.allow_small_buckets or not isinstance(size, int):
        return
    for _, members in sorted(_groups(entries).items()):
        visits = len(_shuffled_visits(members, 0, 0))
        if visits >= size:
            continue
        times = ceil(size / visits)
        raise BucketTooSmall(
            f"training.train_batch_size is {size}, but the bucket {members[0].description} has only {visits} "
            f"visits an epoch ({len(members)} samples). Write `repeats: {times * members[0].visits - 1}` in "
            f"its dataset, train_batch_size: {visits}, or training.allow_small_buckets: true"
        )


class BatchSchedule:
    """The endless sequence of batches: epoch after epoch."""

    def __init__(
        self,
        entries: Sequence[Entry],
        *,
        seed: int,
        batch_size: BatchSizes,
        caption_dropout: float,
        by_bucket: bool = False,
    ) -> None:
        """Plan over `entries`.

        Raises:
            NothingToTrain: there is no sample.
            ValueError: two samples have one id, or a sample has no caption.
        """
        if not entries:
            raise NothingToTrain("there is no sample to train on; the report of probe-media says why")
        times = Counter(entry.sample_id for entry in entries)
        twice = sorted(sample_id for sample_id, count in times.items() if count > 1)
        if twice:
            raise ValueError(f"samples are named twice: {', '.join(twice)}")
        mute = sorted(entry.sample_id for entry in entries if entry.captions < 1)
        if mute:
            raise ValueError(f"samples have no caption: {', '.join(mute)}")
        self._entries = tuple(entries)
        self._seed, self._batch_size, self._caption_dropout = seed, batch_size, caption_dropout
        self._by_bucket = by_bucket
        self._planned: tuple[int, tuple[ScheduledBatch, ...]] = (0, self._plan(0))

    @classmethod
    def of(cls, entries: Sequence[Entry], settings: TrainingSettings) -> BatchSchedule:
        """The plan of a recipe.

        Raises:
            BucketTooSmall: a group does not fill the recipe's batch.
            UndecidedBatchSize: the recipe names buckets, but not all that the entries have.
            NothingToTrain, ValueError: see above.
        """
        check_buckets(entries, settings)
        return cls(
            entries,
            seed=settings.seed,
            batch_size=batch_sizes(entries, settings.train_batch_size),
            caption_dropout=settings.caption_dropout_probability,
            by_bucket=settings.epoch_order == "by_bucket",
        )

    @property
    def groups(self) -> int:
        """How many groups there are: as many shapes come up, and more where a batch is left over."""
        return len(_groups(self._entries))

    @property
    def batches_per_epoch(self) -> int:
        """Batches of one epoch."""
        return len(self._planned[1])

    def epoch_at(self, index: int) -> int:
        """The epoch that batch `index` (from 0) belongs to."""
        return index // self.batches_per_epoch

    def batch_at(self, index: int) -> ScheduledBatch:
        """Batch `index` of the whole training, counted from 0."""
        epoch, position = divmod(index, self.batches_per_epoch)
        if epoch != self._planned[0]:
            self._planned = (epoch, self._plan(epoch))
        return self._planned[1][position]

    def _plan(self, epoch: int) -> tuple[ScheduledBatch, ...]:
        return schedule_epoch(
            self._entries,
            seed=self._seed,
            epoch=epoch,
            batch_size=self._batch_size,
            caption_dropout=self._caption_dropout,
            by_bucket=self._by_bucket,
        )


def steps_of_epochs(recipe: Recipe, batches_per_epoch: int) -> int:
    """Optimizer steps in which every batch of all epochs is seen; the last may begin another epoch."""
    return ceil(recipe.training.num_train_epochs * batches_per_epoch / recipe.batches_a_step)


def _groups(entries: Sequence[Entry]) -> dict[Group, list[Entry]]:
    groups: dict[Group, list[Entry]] = {}
    for entry in sorted(entries, key=lambda e: e.sample_id):
        groups.setdefault(entry.group, []).append(entry)
    return groups


def _shuffled_visits(members: Sequence[Entry], seed: int, epoch: int) -> list[tuple[Entry, int]]:
    """(entry, number of the visit), thinned and in the epoch's order."""
    by_probability: dict[float, list[tuple[Entry, int]]] = {}
    for entry in members:
        by_probability.setdefault(entry.probability, []).extend((entry, v) for v in range(entry.visits))
    kept: list[tuple[Entry, int]] = []
    for probability, visits in sorted(by_probability.items()):
        share = max(1, round(probability * len(visits)))
        kept += sorted(visits, key=lambda v: _draw(v, seed, epoch, "thinning"))[:share]
    return sorted(kept, key=lambda v: _draw(v, seed, epoch, "visit order"))


def _caption(entry: Entry, visit: int, seed: int, epoch: int, dropout: float) -> int | None:
    if _draw((entry, visit), seed, epoch, "caption dropout") < dropout * 2**SEED_BITS:
        return None
    drawn = _draw((entry, visit), seed, epoch, "caption")
    if not entry.caption_weights:
        return drawn % entry.captions
    # The last bound is 1 but for rounding.
    bounds = [bound * 2**SEED_BITS for bound in accumulate(entry.caption_weights)]
    return min(bisect_right(bounds, drawn), entry.captions - 1)


def _draw(visit: tuple[Entry, int], seed: int, epoch: int, purpose: str) -> int:
    """A uniform integer below 2^63 that belongs to one visit."""
    return derive_seed(seed, STAGE, epoch, visit[0].sample_id, visit[1], purpose)
