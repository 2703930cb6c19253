"""The order of a ring's copies and computations on two streams, by vector clocks: no device is needed.

Two accesses to a slot, one of them a write, must be ordered by events. `Clocks` stands for the streams and
sees every write to a slot's memory on whichever stream it is issued.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ltxcore.memory.streaming.copy_stream import DeviceCopyStream, Slot, Streams
from ltxcore.memory.streaming.slot_ring import SlotRing
from ltxcore.memory.streaming.streamed_weights import BlockWeights

COMPUTE, COPY = "compute", "copy"
Clock = dict[str, int]


class Clocks(Streams):
    """What each stream knows to be over: its own accesses, and those that events told it of."""

    def __init__(self) -> None:
        self._clocks: dict[str, Clock] = {name: {COMPUTE: 0, COPY: 0} for name in (COMPUTE, COPY)}
        self._current = COMPUTE
        self._seen: dict[int, list[tuple[str, int, bool]]] = {}
        self.races: list[tuple[str, str]] = []

    def copies_after(self, event: Any) -> None:
        self._learn(COPY, self._clocks[COMPUTE] if event is None else event)

    @contextmanager
    def copying(self) -> Iterator[None]:
        self._current = COPY
        yield
        self._current = COMPUTE

    def copied(self, event: Any) -> Any:
        return dict(self._clocks[COPY])

    def computes_after(self, event: Any) -> None:
        self._learn(COMPUTE, event)

    def computed(self, event: Any) -> Any:
        return dict(self._clocks[COMPUTE])

    def access(self, address: int, *, writes: bool) -> None:
        """Something reads or writes a slot on the stream that work is issued to now."""
        clock = self._clocks[self._current]
        clock[self._current] += 1
        for stream, tick, wrote in self._seen.setdefault(address, []):
            if (writes or wrote) and clock[stream] < tick:
                self.races.append((stream, self._current))
        self._seen[address].append((self._current, clock[self._current], writes))

    def _learn(self, stream: str, told: Clock) -> None:
        own = self._clocks[stream]
        own.update({name: max(own[name], tick) for name, tick in told.items()})


class Writes(TorchDispatchMode):
    """Tells the clocks of every write to a slot."""

    def __init__(self, clocks: Clocks, addresses: set[int]) -> None:
        super().__init__()
        self._clocks, self._addresses = clocks, addresses

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (torch.ops.aten.fill_, torch.ops.aten.copy_):
            address = args[0].untyped_storage().data_ptr()
            if address in self._addresses:
                self._clocks.access(address, writes=True)
        return func(*args, **(kwargs or {}))


def steps(blocks: int, resident: tuple[int, ...], slots: int, copy_stream_of: Any) -> Clocks:
    """Two steps with recomputation, and two evaluations, of a poisoned ring."""
    clocks, device = Clocks(), torch.device("cpu")
    weights = {
        number: BlockWeights(nn.Linear(4, 4).requires_grad_(False), device, pinned=False)
        for number in range(blocks)
        if number not in resident
    }
    ring = SlotRing(weights, device, slots=slots, copy_stream=copy_stream_of(clocks), poison=True)
    addresses = {slot.buffer.untyped_storage().data_ptr() for slot in ring.slots}

    def compute(number: int, *, backward: bool, cycle: bool = False) -> None:
        ring.enter(number, backward=backward, cycle=cycle)
        if number in weights:
            clocks.access(ring.slot_with(number).buffer.untyped_storage().data_ptr(), writes=False)

    with Writes(clocks, addresses):
        for _ in range(2):
            for number in range(blocks):
                compute(number, backward=False)
            for number in reversed(range(blocks)):
                compute(number, backward=True)
                compute(number, backward=True)
        for _ in range(2):
            for number in range(blocks):
                compute(number, backward=False, cycle=True)
    return clocks


@pytest.mark.parametrize("slots", [2, 3])
@pytest.mark.parametrize("resident", [(), (2, 5)], ids=["all streamed", "mixed"])
def test_every_access_to_a_slot_is_ordered(slots: int, resident: tuple[int, ...]) -> None:
    assert steps(8, resident, slots, DeviceCopyStream).races == []


class PoisonsElsewhere(DeviceCopyStream):
    """Overwrites on the stream that computes, as the ring once did."""

    def copy(self, slot: Slot, arena: torch.Tensor, poison: int | None = None) -> None:
        if poison is not None:
            slot.buffer.fill_(poison)
        super().copy(slot, arena)


class NeverWaits(DeviceCopyStream):
    """Computes without waiting for the copy."""

    def wait(self, slot: Slot) -> None:
        pass


@pytest.mark.parametrize("copy_stream", [PoisonsElsewhere, NeverWaits])
def test_the_clocks_see_a_missing_order(copy_stream: Any) -> None:
    assert steps(8, (), 2, copy_stream).races


def test_evicting_makes_no_tensor_for_every_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    full = torch.full
    monkeypatch.setattr(torch, "full", lambda *args, **kwargs: (made.append(args), full(*args, **kwargs))[1])
    block = nn.Sequential(*(nn.Linear(4, 4) for _ in range(6))).requires_grad_(False)
    weights = BlockWeights(block, torch.device("cpu"), pinned=False)
    weights.evict()
    assert len(made) <= 1
    assert all(torch.isnan(parameter).all() for parameter in block.parameters())
