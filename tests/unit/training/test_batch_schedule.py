"""The batch plan: visits, thinning, captions, groups, and any batch known without those before it."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest

from ltxcore.config.batch_size import UndecidedBatchSize
from ltxcore.training.batch_entry import Entry
from ltxcore.training.batch_schedule import BatchSchedule, NothingToTrain, ScheduledBatch, schedule_epoch
from ltxcore.training.batch_sizes import batch_sizes
from ltxcore.training.prefetch import Prefetcher


def entry(name: str, bucket: str = "64x64@17", **settings: object) -> Entry:
    return Entry(
        **{"sample_id": name, "bucket": bucket, "fps": 25.0, "has_audio": True, "captions": 1, **settings}
    )  # type: ignore[arg-type]


def plan(
    entries: list[Entry], epoch: int = 0, batch_size: int = 2, dropout: float = 0.0, seed: int = 0
) -> tuple[ScheduledBatch, ...]:
    return schedule_epoch(entries, seed=seed, epoch=epoch, batch_size=batch_size, caption_dropout=dropout)


def seen(batches: tuple[ScheduledBatch, ...]) -> Counter[str]:
    return Counter(visit.sample_id for batch in batches for visit in batch)


def test_every_sample_is_visited_as_often_as_it_says() -> None:
    entries = [entry("a"), entry("b", visits=3), entry("c", visits=2)]
    assert seen(plan(entries)) == {"a": 1, "b": 3, "c": 2}


def test_each_bucket_may_have_a_batch_size_of_its_own() -> None:
    entries = [
        Entry(f"{bucket}-{number}", bucket, 25.0, has_audio=True, captions=1)
        for bucket in ("64x64@17", "128x64@9")
        for number in range(6)
    ]
    sizes = batch_sizes(entries, {"64x64@17": 3, "128x64@9": 2, "32x32@1": 9})
    batches = schedule_epoch(entries, seed=0, epoch=0, batch_size=sizes, caption_dropout=0.0)
    found = sorted((visits[0].sample_id.split("-")[0], len(visits)) for visits in batches)
    assert found == [("128x64@9", 2)] * 3 + [("64x64@17", 3)] * 2
    assert batch_sizes(entries, 4) == 4
    with pytest.raises(UndecidedBatchSize, match="the data have a bucket 128x64@9 too; name it"):
        batch_sizes(entries, {"64x64@17": 3})
    with pytest.raises(UndecidedBatchSize, match="not been settled"):
        batch_sizes(entries, "auto")


def test_several_buckets_keep_their_batch_size_and_never_mix() -> None:
    wide = [entry(f"w{n}", "96x64@17") for n in range(5)]
    square = [entry(f"s{n}") for n in range(4)]
    batches = plan(wide + square)
    assert sorted(len(b) for b in batches) == [1, 2, 2, 2, 2]
    assert all(len({visit.sample_id[0] for visit in batch}) == 1 for batch in batches)


def test_frame_rates_and_silent_clips_stay_apart() -> None:
    entries = [entry("25"), entry("30", fps=30.0), entry("silent", has_audio=False)]
    assert [len(b) for b in plan(entries, batch_size=4)] == [1, 1, 1]


def test_probability_keeps_its_share_and_another_choice_each_epoch() -> None:
    entries = [entry(f"s{n:02}", probability=0.25) for n in range(40)]
    chosen = [frozenset(seen(plan(entries, epoch))) for epoch in range(8)]
    assert {len(c) for c in chosen} == {10}
    assert len(set(chosen)) == 8


def test_a_rare_sample_still_comes_once_an_epoch() -> None:
    assert seen(plan([entry("rare", probability=0.01)])) == {"rare": 1}


def test_captions_are_drawn_for_each_visit_and_dropped_as_often_as_asked() -> None:
    entries = [entry("many", captions=3, visits=3000)]
    drawn = Counter(v.caption for b in plan(entries, dropout=0.1) for v in b)
    assert drawn[None] == pytest.approx(300, abs=60)
    assert all(drawn[caption] == pytest.approx(900, abs=100) for caption in range(3))


def test_order_changes_with_epoch_and_seed_and_with_nothing_else() -> None:
    entries = [entry(f"s{n}") for n in range(20)]
    assert plan(entries) == plan(list(reversed(entries)))
    assert plan(entries) != plan(entries, epoch=1)
    assert plan(entries) != plan(entries, seed=1)


def test_a_new_clip_changes_no_other_clips_caption() -> None:
    entries = [entry(f"s{n}", captions=5) for n in range(20)]

    def captions(batches: tuple[ScheduledBatch, ...]) -> dict[str, int | None]:
        return {v.sample_id: v.caption for b in batches for v in b}

    before, after = (
        captions(plan(entries, dropout=0.2)),
        captions(plan([*entries, entry("new")], dropout=0.2)),
    )
    assert before.items() <= after.items()


def test_any_batch_is_known_without_those_before_it() -> None:
    entries = [entry(f"s{n}", captions=2, probability=0.7) for n in range(9)]
    settings = {"seed": 3, "batch_size": 2, "caption_dropout": 0.3}
    straight = BatchSchedule(entries, **settings)  # type: ignore[arg-type]
    sequence = [straight.batch_at(n) for n in range(40)]
    for start in (37, 5, 0):
        assert BatchSchedule(entries, **settings).batch_at(start) == sequence[start]  # type: ignore[arg-type]
    assert straight.batches_per_epoch == 3
    assert straight.epoch_at(7) == 2


def test_unusable_data_is_refused_by_name() -> None:
    settings = {"seed": 0, "batch_size": 1, "caption_dropout": 0.0}
    with pytest.raises(NothingToTrain):
        BatchSchedule([], **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="named twice: a"):
        BatchSchedule([entry("a"), entry("a")], **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no caption: mute"):
        BatchSchedule([entry("mute", captions=0)], **settings)  # type: ignore[arg-type]


def test_ten_thousand_clips_are_planned_in_seconds() -> None:
    entries = [entry(f"s{n}") for n in range(10_000)]
    started = time.process_time()
    assert len(plan(entries)) == 5000
    assert time.process_time() - started < 5


def test_prefetch_is_one_ahead_in_order_and_counts_the_wait() -> None:
    loaded: list[int] = []

    def load(number: int) -> int:
        time.sleep(0.02)
        loaded.append(number)
        return number

    with Prefetcher(load, 3, 6) as data:
        assert data.take() == 3
        time.sleep(0.1)
        assert loaded == [3, 4]
        waited = data.waited_s
        assert waited >= 0.01
        assert data.take() == 4
        assert data.waited_s - waited < 0.01
        assert data.take() == 5
        with pytest.raises(IndexError):
            data.take()


def test_prefetch_passes_errors_on_and_ends_with_the_loop() -> None:
    def load(number: int) -> int:
        if number == 1:
            raise OSError("the disk is gone")
        return number

    with Prefetcher(load, 0, 9) as data:
        assert data.take() == 0
        with pytest.raises(OSError, match="disk is gone"):
            data.take()
    assert not any("prefetch" in thread.name for thread in threading.enumerate())
