"""The frozen tensors of one block: where each lies in the block's arena, and where it is read from now."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ltxcore.memory.streaming.arena import HostArena

# Wide enough for every vector load; offsets in a slot then are as aligned as the allocator's own.
ALIGNMENT_BYTES = 256
POISON = 0xFF
"""As bytes of bf16, float32 or float8 this is no number, so that a use after eviction is loud."""


@dataclass(frozen=True)
class _Leaf:
    """A plain tensor inside a block: a parameter's own data, or a part of a quantised one."""

    point: Callable[[torch.Tensor], None]
    """Make the block read this tensor from now on."""
    offset_bytes: int
    span: int
    """Elements from the first to the last, gaps included."""
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def view(self, buffer: torch.Tensor) -> torch.Tensor:
        """The leaf's place in a uint8 buffer laid out as its block's arena."""
        end = self.offset_bytes + self.span * self.dtype.itemsize
        return buffer[self.offset_bytes : end].view(self.dtype).as_strided(self.shape, self.stride)


class BlockWeights:
    """The frozen parameters of a block, moved into an arena of their own.

    Afterwards the block's parameters read NaN until `bind` points them at a buffer with a copy of the arena.
    Trainable parameters (an adapter) and buffers go to the device and stay there.

    Args:
        block: its parameters may be on the host or on the device.
        device: where it computes.
        pinned: whether copies to the device run beside the computation.
    """

    def __init__(self, block: nn.Module, device: torch.device, *, pinned: bool) -> None:
        self._device = device
        for module in block.modules():
            module._buffers.update(
                {name: b if b is None else b.to(device) for name, b in module._buffers.items()}
            )
        found = list(_frozen_tensors(block, device))
        self._leaves: list[_Leaf] = []
        size = 0
        for tensor, point in found:
            span = 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
            leaf = _Leaf(point, size, span, tuple(tensor.shape), tensor.stride(), tensor.dtype)
            self._leaves.append(leaf)
            size = _aligned(size + span * tensor.dtype.itemsize)
        self.size_bytes = size
        self.arena = HostArena(size, pinned=pinned)
        for leaf, (tensor, _) in zip(self._leaves, found, strict=True):
            leaf.view(self.arena.bytes).copy_(tensor.detach())
        self.evict()

    def views(self, buffer: torch.Tensor) -> list[torch.Tensor]:
        """Each weight as a view, in its own shape, of a buffer uint8 [n]; in the order of `bind`.

        Args:
            buffer: at least `size_bytes` long.
        """
        return [leaf.view(buffer) for leaf in self._leaves]

    def bind(self, views: Sequence[torch.Tensor]) -> None:
        """Make the block compute with these views, each in the shape of its weight, e.g. [out, in]."""
        for leaf, view in zip(self._leaves, views, strict=True):
            leaf.point(view)

    def evict(self) -> None:
        """Point the block at a single NaN element, freeing its memory; any use is then visible."""
        for leaf in self._leaves:
            leaf.point(_nothing(leaf.dtype, self._device).expand(leaf.shape))

    def give_back(self) -> None:
        """Give the block its own weights back, on the host."""
        self.bind(self.views(self.arena.bytes))
        self.arena.release()


def _frozen_tensors(
    block: nn.Module, device: torch.device
) -> Iterator[tuple[torch.Tensor, Callable[[torch.Tensor], None]]]:
    """Every plain tensor of a block's frozen parameters, with what points the block at another."""
    for module in block.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is None:
                continue
            if parameter.requires_grad:
                parameter.data = parameter.data.to(device)
            elif is_traceable_wrapper_subclass(parameter):
                # Quantised weights say which device they are for, and int4 is packed differently on each.
                wrapper = nn.Parameter(parameter.detach().to(device), requires_grad=False)
                module._parameters[name] = wrapper
                yield from _inner_tensors(wrapper)
            else:
                yield parameter, _data_setter(parameter)


def _inner_tensors(wrapper: Any) -> Iterator[tuple[torch.Tensor, Callable[[torch.Tensor], None]]]:
    names, _ = wrapper.__tensor_flatten__()
    for name in names:
        inner = getattr(wrapper, name)
        if is_traceable_wrapper_subclass(inner):
            yield from _inner_tensors(inner)
        else:
            yield inner, _attribute_setter(wrapper, name)


def _data_setter(parameter: nn.Parameter) -> Callable[[torch.Tensor], None]:
    def point(tensor: torch.Tensor) -> None:
        parameter.data = tensor

    return point


def _attribute_setter(wrapper: Any, name: str) -> Callable[[torch.Tensor], None]:
    def point(tensor: torch.Tensor) -> None:
        setattr(wrapper, name, tensor)

    return point


def _aligned(size: int) -> int:
    return math.ceil(size / ALIGNMENT_BYTES) * ALIGNMENT_BYTES


@cache
def _nothing(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A single NaN element; for integers a byte pattern that makes every test fail."""
    return torch.full((dtype.itemsize,), POISON, dtype=torch.uint8, device=device).view(dtype)[0]
