"""Handles a cancellation at the end of a training step instead of in the middle.

Prefect's own SIGTERM handler raises at any bytecode. Half an optimizer step is no checkpoint, so while the
loop runs the signal only sets a flag; the loop saves and returns, and then Prefect's own exception is raised.

One end of a run brings several signals: the parent passes its own on, systemd sends one to each process, and
the kernel one for each thread of a parent that dies. So a second one shows no impatience; SIGKILL does.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from prefect.exceptions import TerminationSignal

from flows.orphan import last_work


@contextmanager
def stop_on_sigterm() -> Iterator[Callable[[], bool]]:
    """Give a `should_stop()` that turns true on SIGTERM (a cancellation, or the parent's end).

    At the end of the block Prefect's TerminationSignal is raised if the signal came. Prefect kills the
    process 30 s after it, so ask `should_stop()` at least that often. Main thread only.
    """
    received = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        with last_work():
            yield lambda: received
    finally:
        signal.signal(signal.SIGTERM, before)
    if received:
        raise TerminationSignal(signal=signal.SIGTERM)
