"""Proposed buckets: known answers, exactness against trying everything, and what waste is."""

from __future__ import annotations

import itertools
import random
import time

import pytest

from ltxcore.config.bucket_list import Bucket
from ltxcore.media.bucket_proposal import (
    Shape,
    Waste,
    better,
    choose,
    elbow,
    propose,
    waste_as_placed,
    waste_of,
)

AREA = 512.0**2
MANY = 1 << 20


def best(shapes: list[Shape], count: int, max_tokens: int = MANY, area: float = AREA) -> tuple[Bucket, ...]:
    found = propose(shapes, area=area, alignment=32, max_tokens=max_tokens, most=count)
    return found[-1].buckets


def test_clips_of_one_shape_need_one_bucket_and_waste_only_what_is_not_legal() -> None:
    shapes = [Shape(1024, 1024, 100)] * 5
    found = propose(shapes, area=AREA, alignment=32, max_tokens=MANY, most=6)
    assert [proposal.buckets for proposal in found] == [(Bucket(512, 512, 97),)]
    assert found[0].waste == Waste(500.0, 0.0, 15.0, 0.0, 0)


def test_two_shapes_get_a_bucket_each_before_lengths_are_split() -> None:
    shapes = [Shape(1920, 1080, 49)] * 3 + [Shape(1080, 1920, 49)] * 3 + [Shape(1080, 1920, 57)]
    assert best(shapes, 2) == (Bucket(384, 672, 49), Bucket(672, 384, 49))
    assert best(shapes, 3) == (Bucket(384, 672, 49), Bucket(384, 672, 57), Bucket(672, 384, 49))


def test_lengths_are_split_where_it_saves_most() -> None:
    shapes = [Shape(512, 512, 25)] * 10 + [Shape(512, 512, 121)] * 10 + [Shape(512, 512, 129)]
    assert best(shapes, 1) == (Bucket(512, 512, 121),), "leaving the short ones out wastes less"
    assert best(shapes, 2) == (Bucket(512, 512, 25), Bucket(512, 512, 121))


def test_visits_weigh() -> None:
    shapes = [Shape(512, 512, 25, visits=100), Shape(512, 512, 121)]
    assert best(shapes, 1) == (Bucket(512, 512, 25),)


def test_the_token_budget_holds_for_every_bucket() -> None:
    shapes = [Shape(1920, 1080, 500), Shape(1080, 1920, 90)]
    budget = 16 * 16 * 8
    for count in (1, 2, 4):
        found = best(shapes, count, max_tokens=budget)
        assert all(bucket.tokens <= budget for bucket in found)
    assert max(bucket.frames for bucket in best(shapes, 4, max_tokens=budget)) == 57
    with pytest.raises(ValueError, match="more than 10 tokens"):
        propose(shapes, area=AREA, alignment=32, max_tokens=10, most=2)
    with pytest.raises(ValueError, match="no clip"):
        propose([], area=AREA, alignment=32, max_tokens=MANY, most=2)


def test_sizes_are_on_the_grid_and_near_the_area() -> None:
    shapes = [Shape(width, 1000, 49) for width in range(400, 2600, 150)]
    for alignment in (32, 64):
        for proposal in propose(shapes, area=AREA, alignment=alignment, max_tokens=MANY, most=8):
            for bucket in proposal.buckets:
                assert bucket.width % alignment == bucket.height % alignment == 0
                assert (bucket.frames - 1) % 8 == 0
                assert 0.8 < bucket.width * bucket.height / AREA < 1.25


def test_more_buckets_never_waste_more_and_the_elbow_stops_where_it_is_not_worth_it() -> None:
    draw = random.Random(3)  # noqa: S311
    shapes = [
        Shape(draw.choice([1920, 1080, 720, 1440]), draw.choice([1080, 1920, 720]), draw.randint(30, 260))
        for _ in range(200)
    ]
    found = propose(shapes, area=AREA, alignment=32, max_tokens=MANY, most=12)
    wasted = [proposal.waste.wasted for proposal in found]
    assert wasted == sorted(wasted, reverse=True)
    chosen = elbow(found)
    assert 1 < len(chosen.buckets) < 12
    assert chosen.waste.share < found[0].waste.share * 0.6


@pytest.mark.parametrize("seed", range(6))
def test_it_finds_what_trying_every_set_finds(seed: int) -> None:
    draw = random.Random(seed)  # noqa: S311
    shapes = [
        Shape(*draw.choice([(96, 64), (64, 96), (64, 64)]), draw.choice([9, 17, 33]), draw.randint(1, 3))
        for _ in range(8)
    ]
    area, count = 96.0 * 64, 2 + seed % 2
    sizes = {(96, 64), (64, 96)}
    candidates = [Bucket(w, h, f) for w, h in sizes for f in (9, 17, 33)]
    least = min(waste_of(shapes, tried).wasted for tried in itertools.combinations(candidates, count))
    found = propose(shapes, area=area, alignment=32, max_tokens=MANY, most=count)[-1].waste.wasted
    assert found <= least + 1e-9


def test_nothing_is_proposed_that_is_worse_than_what_there_is() -> None:
    shapes = [Shape(512, 512, 49)] * 9 + [Shape(512, 640, 49), Shape(640, 512, 49)]
    found = propose(shapes, area=AREA, alignment=64, max_tokens=MANY, most=4)
    exact = [Bucket(512, 512, 49), Bucket(512, 640, 49), Bucket(640, 512, 49)]
    assert waste_of(shapes, exact).share == 0
    assert elbow(found).waste.share > 0, "alone, one bucket more would not be worth it"
    assert better(found, exact, waste_of(shapes, exact)) is None
    poor = [Bucket(1024, 256, 9)]
    chosen = better(found, poor, waste_of(shapes, poor))
    assert chosen is not None
    assert chosen.waste.share < waste_of(shapes, poor).share
    again = better(found, chosen.buckets, chosen.waste)
    assert again is None, "what was proposed is not bettered when it is asked again"
    many = [*exact, *(Bucket(512, 512, frames) for frames in (9, 17, 25, 33, 41))]
    assert better(found, many, waste_of(shapes, many)) is None, "fewer buckets that waste more"
    wasteful = [*poor, Bucket(1024, 256, 17), Bucket(1024, 256, 25)]
    fewer = better(found, wasteful, waste_of(shapes, wasteful))
    assert fewer is not None
    assert fewer.waste.share < waste_of(shapes, wasteful).share


def test_waste_says_what_is_cropped_dropped_and_left_out() -> None:
    wide, short = Shape(200, 100, 100, visits=2), Shape(100, 100, 5)
    bucket = Bucket(96, 96, 49)
    assert choose(short, [bucket]) is None
    waste = waste_as_placed([(wide, bucket), (short, None)])
    assert (waste.total, waste.cropped, waste.dropped) == (205.0, 49.0, 102.0)
    assert (waste.left_out, waste.clips_left_out) == (5.0, 1)
    assert waste.share == pytest.approx(156 / 205)


def test_ten_thousand_clips_take_seconds() -> None:
    draw = random.Random(1)  # noqa: S311
    shapes = [
        Shape(draw.randint(300, 2000), draw.randint(300, 2000), draw.randint(10, 900)) for _ in range(10_000)
    ]
    started = time.process_time()
    propose(shapes, area=AREA, alignment=32, max_tokens=8000, most=8)
    assert time.process_time() - started < 20
