"""Decoding ahead: in order, side by side, bounded, and over at once when the taker stops."""

from __future__ import annotations

import threading
import time

import pytest

from ltxcore.media.decode_ahead import decode_ahead


def test_results_come_in_the_order_of_the_items() -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number == 0 else 0)
        return number * 10

    assert list(decode_ahead(range(7), slow_first, at_once=3)) == [(n, n * 10) for n in range(7)]
    assert list(decode_ahead([], slow_first)) == []


def test_clips_are_decoded_side_by_side_while_the_taker_works() -> None:
    together = threading.Barrier(2, timeout=300)
    fed = decode_ahead(range(4), lambda number: together.wait() >= 0, at_once=2)
    assert [number for number, _ in fed] == [0, 1, 2, 3]


def test_no_more_is_held_than_was_asked_for() -> None:
    started: list[int] = []
    fed = decode_ahead(range(20), lambda number: started.append(number), at_once=2)
    next(fed)
    while len(started) < 3:
        time.sleep(0.01)
    time.sleep(0.05)
    assert sorted(started) == [0, 1, 2]
    fed.close()
    assert sorted(started) == [0, 1, 2]


def test_an_error_is_raised_in_its_items_turn() -> None:
    def third_breaks(number: int) -> int:
        if number == 2:
            raise ValueError("broken")
        return number

    fed = decode_ahead(range(5), third_breaks, at_once=2)
    assert [next(fed)[0], next(fed)[0]] == [0, 1]
    with pytest.raises(ValueError, match="broken"):
        next(fed)
