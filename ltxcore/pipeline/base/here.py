"""The machine on which a job would run, as far as it is known without torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ltxcore.memory.device import likely_device

CARDS = "nvidia[0-9]*"


def _count_devices() -> int | None:
    """NVIDIA's devices of this machine; None where the driver does not tell by its files."""
    return len(list(Path("/dev").glob(CARDS))) or None


@dataclass(frozen=True)
class Here:
    """What a job is checked against."""

    device: str = field(default_factory=likely_device)
    devices: int | None = field(default_factory=_count_devices)
    """How many there are; None: unknown."""
    alone: bool = False
    """Whether one stage runs by itself, which has a snapshot and no dataset file."""
    hub_token: Callable[[], str | None] | None = None
    """Where an upload's token comes from; None: somebody else asks for it."""
