"""How a block's weights get from the host into a slot on the device, and who waits for whom."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch


@dataclass
class Slot:
    """A place on the device that holds the weights of one block at a time."""

    buffer: torch.Tensor
    """uint8, as large as the largest block."""
    block: int | None = None
    ready: Any = None
    """When its copy is complete."""
    used: Any = None
    """When the last computation with it is complete."""
    views: dict[int, list[torch.Tensor]] = field(default_factory=dict)
    """Block -> its tensors in this slot."""


class Lane(Protocol):
    """The way from host to device."""

    def copy(self, slot: Slot, arena: torch.Tensor) -> None:
        """Begin to fill the slot, after all computation with its former content."""

    def wait(self, slot: Slot) -> None:
        """Let the computation that is issued from now on wait for the slot's copy."""

    def mark_used(self, slot: Slot) -> None:
        """All computation with the slot's content has been issued by now."""


class HostLane:
    """Plain copies, for a device that is the host itself."""

    def copy(self, slot: Slot, arena: torch.Tensor) -> None:
        slot.buffer[: arena.numel()].copy_(arena)

    def wait(self, slot: Slot) -> None:
        """The copy was complete when `copy` returned."""

    def mark_used(self, slot: Slot) -> None:
        """The computation was complete when it returned."""


class CudaLane:
    """Copies on a stream of their own, beside the computation."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def copy(self, slot: Slot, arena: torch.Tensor) -> None:
        if slot.used is not None:
            self._stream.wait_event(slot.used)
        else:
            # The slot's memory may still be read by whoever had it before.
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            slot.buffer[: arena.numel()].copy_(arena, non_blocking=True)
            slot.ready = self._stream.record_event(slot.ready)

    def wait(self, slot: Slot) -> None:
        torch.cuda.current_stream(self._device).wait_event(slot.ready)

    def mark_used(self, slot: Slot) -> None:
        slot.used = torch.cuda.current_stream(self._device).record_event(slot.used)


def lane_to(device: torch.device) -> Lane:
    """The lane for a device."""
    return CudaLane(device) if device.type == "cuda" else HostLane()
