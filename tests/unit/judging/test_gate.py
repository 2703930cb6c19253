"""The statistics of the gate: intervals that keep their promise, and verdicts that follow from them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltxcore.config.base import parse
from ltxcore.config.errors import ConfigError
from ltxcore.config.promotion_settings import NOT_MEASURED, NotWorseBy, PromotionSettings
from ltxcore.config.recipe import Recipe, load_recipe
from ltxcore.judging.gate import answer_of, judge, nothing_to_compare
from ltxcore.judging.paired import (
    FEW,
    Differences,
    Interval,
    clip_metric,
    differences,
    interval_of,
    t_quantile,
)

VALUES = st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=50)
GATE = PromotionSettings(model="sea")
RANK = ("refused", "undecided", "promoted")


def differing(values: list[float]) -> dict[str, Differences]:
    return {"loss": Differences({f"{at:03d}": value for at, value in enumerate(values)})}


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (28, 2.0484)]
)
def test_students_t_is_that_of_the_tables(freedom: int, quantile: float) -> None:
    assert t_quantile(0.975, freedom) == pytest.approx(quantile, abs=5e-5)


@settings(max_examples=40, deadline=None)
@given(VALUES, st.floats(-5, 5), st.randoms())
def test_an_interval_moves_with_its_values_and_knows_no_order(
    values: list[float], by: float, order: random.Random
) -> None:
    found = interval_of(values, 7)
    assert found.low <= found.mean + 1e-9
    assert found.mean <= found.high + 1e-9
    shuffled = list(values)
    order.shuffle(shuffled)
    assert interval_of(shuffled, 7) == found
    moved = interval_of([value + by for value in values], 7)
    assert (moved.low, moved.high) == pytest.approx((found.low + by, found.high + by), abs=1e-6)
    assert found.method == ("t" if len(values) < FEW else "bootstrap")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-10, 10, width=32), min_size=5, max_size=12), st.floats(0, 5))
def test_a_challenger_that_does_better_on_every_clip_never_gets_a_worse_verdict(
    values: list[float], by: float
) -> None:
    before = judge(GATE, differing(values), 7).verdict
    after = judge(GATE, differing([value - by for value in values]), 7).verdict
    # Moving all by the same keeps the width, up to rounding at the very edge.
    edge = min(abs(bound) for bound in (interval_of(values, 7).low, interval_of(values, 7).high))
    assert RANK.index(after) >= RANK.index(before) or edge < 1e-6


@pytest.mark.parametrize("clips", [8, 40])
def test_equal_loras_are_rarely_promoted_and_as_rarely_refused(clips: int) -> None:
    """Of nights without a difference a 95 % interval lets a fortieth through on either side."""
    drawn, nights = np.random.default_rng(3), 200
    found = [
        judge(GATE, differing(drawn.normal(0, 0.02, clips).tolist()), night).verdict
        for night in range(nights)
    ]
    for verdict in ("promoted", "refused"):
        assert 1 <= found.count(verdict) <= 14, verdict


def test_the_conditions_read_the_interval() -> None:
    better, tolerant = "better", NotWorseBy(not_worse_by=0.01)

    def answers(low: float, high: float) -> tuple[str, str]:
        interval = Interval((low + high) / 2, low, high, 9, "t")
        return answer_of(better, interval), answer_of(tolerant, interval)

    assert answers(-0.03, -0.01) == ("holds", "holds")
    assert answers(-0.01, 0.005) == ("open", "holds")
    assert answers(-0.01, 0.02) == ("open", "open")
    assert answers(0.001, 0.005) == ("fails", "holds")
    assert answers(0.02, 0.03) == ("fails", "fails")
    assert answers(0, 0) == ("open", "holds"), "an equal LoRA is not better"


def test_one_condition_that_fails_refuses_and_what_is_open_is_kept_or_taken() -> None:
    gate = PromotionSettings.model_validate(
        {"model": "sea", "when": {"loss": "better", "sound_loss": {"not_worse_by": 0.01}}}
    )
    good, bad = [-0.2, -0.21, -0.19, -0.2, -0.2], [0.2, 0.21, 0.19, 0.2, 0.2]
    unsure = [-0.2, 0.2, 0.1, -0.1, 0.0]

    def verdict(loss: list[float], sound: list[float], gate: PromotionSettings = gate) -> tuple[str, bool]:
        measured = {**differing(loss), "sound_loss": differing(sound)["loss"]}
        found = judge(gate, measured, 1)
        return found.verdict, found.takes

    assert verdict(good, good) == ("promoted", True)
    assert verdict(good, bad) == ("refused", False)
    assert verdict(unsure, bad[:2]) == ("too few clips", False)
    assert verdict(bad, good[:2]) == ("refused", False)
    assert verdict(unsure, good) == ("undecided", False)
    take, never = gate.model_copy(update={"undecided": "take"}), gate.model_copy(update={"decide": "never"})
    assert verdict(unsure, good, take) == ("undecided", True)
    assert verdict(good, good, never) == ("promoted", False)
    assert nothing_to_compare(gate).takes
    assert not nothing_to_compare(never).takes


def test_a_lora_that_gives_no_number_is_refused_however_few_clips_there_are() -> None:
    whole = {"video": {"0.5": 1.0}, "audio": {"0.5": 2.0}}
    broken = {"video": {"0.5": 1.0}, "audio": {"0.5": None}}
    found = {m: differences({"a": broken}, {"a": whole}, m) for m in ("loss", "video_loss")}
    assert found["loss"] == Differences({}, ("a",))
    assert found["video_loss"] == Differences({"a": 0.0})
    assert judge(GATE, found, 1).verdict == "refused"
    assert differences({"a": whole}, {"a": broken}, "loss") == Differences({}), "it says nothing"


def test_a_clips_loss_is_the_sum_of_the_means_over_its_sigmas() -> None:
    losses = {"video": {"0.2": 1.0, "0.8": 3.0}, "audio": {"0.2": 0.5, "0.8": 0.7}}
    assert clip_metric(losses, "loss") == pytest.approx(2.6)
    assert clip_metric(losses, "sound_loss") == pytest.approx(0.6)
    assert clip_metric({"video": losses["video"]}, "loss") == pytest.approx(2.0)
    assert clip_metric({"video": losses["video"]}, "sound_loss") is None


@pytest.mark.parametrize(
    ("promotion", "message"),
    [
        *[
            ({"model": "a", "when": {name: "better"}}, f"{name} cannot be measured yet")
            for name in NOT_MEASURED
        ],
        ({"model": "a", "when": {"forgetting": {"below": 0.05}}}, "forgetting cannot be measured yet"),
        ({"model": "a", "when": {}}, "write e.g. loss: better"),
        ({"model": "a/b"}, "'a/b' cannot name a folder"),
        ({"model": ".."}, "cannot name a folder"),
        ({"model": "a", "decide": "ask"}, "write never"),
        ({"model": "a", "when": {"los": "better"}}, "loss"),
        ({"model": "a", "min_clips": 2}, "greater than or equal to 3"),
    ],
)
def test_a_gate_that_cannot_be_is_refused_with_what_to_write(
    promotion: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(Recipe, {"evaluation": {"eval_share": 0.5}, "promotion": promotion}, "recipe.yaml")


def test_a_gate_without_held_out_clips_is_refused() -> None:
    with pytest.raises(ConfigError, match="promotion compares LoRAs on held-out clips"):
        parse(Recipe, {"promotion": {"model": "a"}}, "recipe.yaml")


def test_a_recipe_without_a_gate_says_nothing_of_it(tmp_path: Path) -> None:
    assert "promotion" not in Recipe().model_dump(mode="json")
    file = tmp_path / "recipe.yaml"
    file.write_text("evaluation: {eval_share: 0.1}\npromotion: {model: sea, when: {loss: better}}\n")
    recipe = load_recipe(file)
    assert recipe.fingerprint_data()["promotion"]["model"] == "sea"
    assert parse(Recipe, recipe.fingerprint_data(), "again") == recipe
