"""A cancellation that a training can answer at a step's end instead of in the middle of one.

Prefect's own SIGTERM handler raises at any bytecode. Half an optimizer step is no checkpoint, so while the
loop runs the signal only sets a flag; the loop saves and returns, and then Prefect's own exception is raised.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from prefect.exceptions import TerminationSignal


@contextmanager
def stop_on_sigterm() -> Iterator[Callable[[], bool]]:
    """Give a `should_stop()` that turns true on SIGTERM (a cancellation, or the parent's end).

    At the end of the block Prefect's TerminationSignal is raised if the signal came. Prefect kills the
    process 30 s after it, so ask `should_stop()` at least that often. A second SIGTERM raises at once.
    Main thread only.
    """
    received = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal received
        if received:
            raise TerminationSignal(signal=number)
        received = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: received
    finally:
        signal.signal(signal.SIGTERM, before)
    if received:
        raise TerminationSignal(signal=signal.SIGTERM)
