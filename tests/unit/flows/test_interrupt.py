import os
import signal
import time

import pytest
from prefect.exceptions import TerminationSignal

from flows.interrupt import stop_on_sigterm


def kill_me() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)


def train(steps: list[int], signal_at: int) -> None:
    with stop_on_sigterm() as should_stop:
        while not should_stop():
            steps.append(len(steps))
            if len(steps) == signal_at:
                kill_me()
            steps[-1] += 100


def test_the_loop_ends_its_step_and_then_the_run_is_terminated() -> None:
    before = signal.getsignal(signal.SIGTERM)
    steps: list[int] = []
    with pytest.raises(TerminationSignal):
        train(steps, signal_at=3)
    assert steps == [100, 101, 102]
    assert signal.getsignal(signal.SIGTERM) is before


def test_without_a_signal_nothing_happens() -> None:
    with stop_on_sigterm() as should_stop:
        assert not should_stop()


def test_more_signals_change_nothing() -> None:
    """A parent that dies while it passes a cancellation on sends two or three of them."""
    steps: list[int] = []

    def impatient() -> None:
        with stop_on_sigterm() as should_stop:
            kill_me()
            kill_me()
            kill_me()
            steps.append(100)
            assert should_stop()

    with pytest.raises(TerminationSignal):
        impatient()
    assert steps == [100]


def test_an_error_of_the_loop_is_not_replaced() -> None:
    def broken() -> None:
        with stop_on_sigterm():
            kill_me()
            raise ValueError("the loop")

    with pytest.raises(ValueError, match="the loop"):
        broken()
