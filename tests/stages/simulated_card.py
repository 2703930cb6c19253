"""A graphics card in name: plans are made for it, and the computing is done on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ltxcore.memory.plan import GIB
from ltxcore.pipeline.plan import stage_plan

CARD_BYTES = 24 * GIB


@contextmanager
def simulated_card(device_bytes: int = CARD_BYTES) -> Iterator[None]:
    """Inside, every stage that runs the transformer plans for a card of so much memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_plan, "device_budget_bytes", lambda device, vram: device_bytes)
        patch.setattr(stage_plan, "device_name", lambda: "RTX 4090")
        yield
