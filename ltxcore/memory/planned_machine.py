"""A machine that is planned for without being one: its device and its host memory, by name and by size.

Whoever asks what a stage would need on a card that is not here asks the very plans that a run makes: inside
`planned_for`, what they are told of the device and of host memory is this machine's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class PlannedMachine:
    """A machine with one CUDA device."""

    device_name: str
    device_bytes: int
    """What a process can have of the device."""
    host_bytes: int


_PLANNED: ContextVar[PlannedMachine | None] = ContextVar("planned machine", default=None)


def planned_machine() -> PlannedMachine | None:
    """The machine that is planned for; None: the one that this process is on."""
    return _PLANNED.get()


@contextmanager
def planned_for(machine: PlannedMachine | None) -> Iterator[None]:
    """Inside, plans are made for this machine; None: for the one that this process is on."""
    before = _PLANNED.set(machine)
    try:
        yield
    finally:
        _PLANNED.reset(before)
