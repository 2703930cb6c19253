"""Copies a block's weights from the host into a slot on the device, and synchronises with the computation."""

from __future__ import annotations

from contextlib import AbstractContextManager
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


class CopyStream(Protocol):
    """The way from host to device."""

    def copy(self, slot: Slot, arena: torch.Tensor, poison: int | None = None) -> None:
        """Begin to fill the slot, after all computation with its former content.

        Where there is a `poison`, the whole slot is overwritten with that byte first, in the same order.

        Args:
            arena: [bytes], a block's weights in host memory, at most as many bytes as the slot has.
        """

    def wait(self, slot: Slot) -> None:
        """Let the computation that is issued from now on wait for the slot's copy."""

    def mark_used(self, slot: Slot) -> None:
        """All computation with the slot's content has been issued by now."""


class HostCopyStream(CopyStream):
    """Plain copies, for a device that is the host itself."""

    def copy(self, slot: Slot, arena: torch.Tensor, poison: int | None = None) -> None:
        fill(slot, arena, poison)

    def wait(self, slot: Slot) -> None:
        """The copy was complete when `copy` returned."""

    def mark_used(self, slot: Slot) -> None:
        """The computation was complete when it returned."""


class Streams(Protocol):
    """A stream that computes and one that copies: all of a device that the order of copies is made of."""

    def copies_after(self, event: Any) -> None:
        """Let copies wait for an event; None: for all that was issued to compute until now."""

    def copying(self) -> AbstractContextManager[None]:
        """Within, work is issued to the stream that copies."""

    def copied(self, event: Any) -> Any:
        """An event after all copies until now; `event` may be used again."""

    def computes_after(self, event: Any) -> None:
        """Let computation wait for an event."""

    def computed(self, event: Any) -> Any:
        """An event after all computation until now; `event` may be used again."""


class DeviceCopyStream(CopyStream):
    """Copies on a stream of their own, beside the computation."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    def copy(self, slot: Slot, arena: torch.Tensor, poison: int | None = None) -> None:
        # A slot that nothing has computed with yet may still be read by whoever had its memory before.
        self._streams.copies_after(slot.used)
        with self._streams.copying():
            fill(slot, arena, poison)
        slot.ready = self._streams.copied(slot.ready)

    def wait(self, slot: Slot) -> None:
        self._streams.computes_after(slot.ready)

    def mark_used(self, slot: Slot) -> None:
        slot.used = self._streams.computed(slot.used)


class CudaStreams(Streams):
    """The current stream of a CUDA device, and one beside it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies = torch.cuda.Stream(device)

    def copies_after(self, event: Any) -> None:
        if event is None:
            self._copies.wait_stream(torch.cuda.current_stream(self._device))
        else:
            self._copies.wait_event(event)

    def copying(self) -> AbstractContextManager[None]:
        return torch.cuda.stream(self._copies)

    def copied(self, event: Any) -> Any:
        return self._copies.record_event(event)

    def computes_after(self, event: Any) -> None:
        torch.cuda.current_stream(self._device).wait_event(event)

    def computed(self, event: Any) -> Any:
        return torch.cuda.current_stream(self._device).record_event(event)


def fill(slot: Slot, arena: torch.Tensor, poison: int | None) -> None:
    """Overwrite a slot, where that is wanted, and copy the arena, [bytes], into it."""
    if poison is not None:
        slot.buffer.fill_(poison)
    slot.buffer[: arena.numel()].copy_(arena, non_blocking=True)


def copy_stream_to(device: torch.device) -> CopyStream:
    """What copies to a device."""
    return DeviceCopyStream(CudaStreams(device)) if device.type == "cuda" else HostCopyStream()
