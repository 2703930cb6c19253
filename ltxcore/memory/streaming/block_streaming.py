"""Streaming of a model's frozen weights: blocks stay on the host and visit the device when they compute.

It attaches from outside and can be removed; the model's class is not changed. Every use of a weight goes
through `SlotRing.enter`: in forward by a wrapper around the block, and in backward by what autograd kept,
which is a note of the block and the place in it instead of the weight. So gradients are right with or
without gradient checkpointing, of either kind, whichever blocks it covers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ltxcore.memory.streaming.copy_stream import CopyStream, copy_stream_to
from ltxcore.memory.streaming.saved_tensors import keep_instead
from ltxcore.memory.streaming.slot_ring import SlotRing
from ltxcore.memory.streaming.streamed_weights import BlockWeights


@dataclass(frozen=True)
class _Kept:
    """What autograd keeps of a weight: where it is found when its block is on the device again."""

    block: int
    offset: int
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class _KeptWrapper:
    """The same for a quantised weight, which consists of several tensors."""

    kind: Any
    meta: Any
    shape: torch.Size
    stride: tuple[int, ...]
    parts: dict[str, Any]


def _is_note(kept: Any) -> bool:
    return isinstance(kept, _Kept | _KeptWrapper)


class BlockStreaming:
    """The blocks of a model, some resident on the device and the others streamed to it.

    Frozen parameters are streamed. Trainable ones are moved to the device and stay there, whether an adapter
    is there already or is added later. `remove()` leaves all weights on the host.

    Args:
        blocks: the model's blocks in the order of its forward pass.
        device: where they compute. On the CPU the same code runs with plain copies.
        resident: positions of the blocks that stay on the device.
        slots: places on the device for streamed blocks, 2 or 3.
        poison: see `SlotRing`.
        copy_stream: what copies to the device; None: what fits the device.

    Raises:
        PinningFailed: the host does not allow that much locked memory.
        ValueError: every block is resident, or there are fewer than two slots.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        device: torch.device | str,
        *,
        resident: Collection[int] = (),
        slots: int = 2,
        poison: bool = False,
        copy_stream: CopyStream | None = None,
    ) -> None:
        self.device = torch.device(device)
        self._blocks = list(blocks)
        self.streamed = tuple(number for number in range(len(self._blocks)) if number not in resident)
        if not self.streamed:
            raise ValueError(f"all {len(self._blocks)} blocks are resident, so there is nothing to stream")
        pinned = self.device.type == "cuda"
        self._weights = {
            number: BlockWeights(self._blocks[number], self.device, pinned=pinned) for number in self.streamed
        }
        for number in resident:
            self._blocks[number].to(self.device)
        self.ring = SlotRing(
            self._weights,
            self.device,
            slots=slots,
            copy_stream=copy_stream or copy_stream_to(self.device),
            poison=poison,
        )
        for number, block in enumerate(self._blocks):
            block.forward = self._wrapped(number, block.forward)

    @property
    def host_bytes(self) -> int:
        """Host memory of the streamed blocks."""
        return sum(weights.size_bytes for weights in self._weights.values())

    @property
    def slot_bytes(self) -> int:
        """Device memory of the ring."""
        return sum(slot.buffer.numel() for slot in self.ring.slots)

    @contextmanager
    def reading(self, number: int | None) -> Iterator[None]:
        """Within, the weights of the block may be read, on the device; None: those outside, which stay."""
        if number is not None:
            self._enter(number)
        yield

    def remove(self) -> None:
        """Take the streaming off: the streamed blocks own their weights again, on the host."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        for block in self._blocks:
            del block.forward
        for weights in self._weights.values():
            weights.give_back()

    def _wrapped(self, number: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        def streamed_forward(*args: Any, **kwargs: Any) -> Any:
            self._enter(number)
            if number not in self._weights or not torch.is_grad_enabled():
                return forward(*args, **kwargs)
            with keep_instead(self._note, _is_note, self._find):
                return forward(*args, **kwargs)

        return streamed_forward

    def _enter(self, number: int) -> None:
        backward = torch._C._current_graph_task_id() != -1
        self.ring.enter(number, backward=backward, cycle=not backward and not torch.is_grad_enabled())

    def _note(self, tensor: torch.Tensor) -> Any:
        kept = self._keep(tensor)
        return tensor if kept is None else kept

    def _keep(self, tensor: Any) -> _Kept | _KeptWrapper | None:
        if is_traceable_wrapper_subclass(tensor):
            names, meta = tensor.__tensor_flatten__()
            parts = {name: self._keep(getattr(tensor, name)) for name in names}
            if not all(parts.values()):
                return None
            return _KeptWrapper(type(tensor), meta, tensor.shape, tensor.stride(), parts)
        if tensor.layout is not torch.strided or tensor.device.type != self.device.type:
            return None
        slot = self.ring.slot_at(tensor.untyped_storage().data_ptr())
        if slot is None or slot.block is None:
            return None
        return _Kept(slot.block, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)

    def _find(self, kept: _Kept | _KeptWrapper) -> torch.Tensor:
        if isinstance(kept, _KeptWrapper):
            parts = {name: self._find(part) for name, part in kept.parts.items()}
            found: torch.Tensor = kept.kind.__tensor_unflatten__(parts, kept.meta, kept.shape, kept.stride)
            return found
        self._enter(kept.block)
        storage = self.ring.slot_with(kept.block).buffer.untyped_storage()
        place = torch.empty(0, dtype=kept.dtype, device=self.device)
        return place.set_(storage, kept.offset, kept.shape, kept.stride)
