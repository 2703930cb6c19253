"""Tensors that FSDP2 has sharded over the processes: gathered whole, and sharded again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn


def gathered(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors whole, each in its shape [...], where processes hold shards. All processes call it together."""
    return {name: whole(tensor) for name, tensor in tensors.items()}


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor whole, in its shape [...], where processes hold shards. All processes call it together."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def spread(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This process's shard of a whole tensor [...], on the device and in the layout of `like`."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor) or tensor.ndim == 0:
        return tensor.to(like.device)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def drop_gathered(model: Any) -> None:
    """Make every process drop the shards that it has gathered from the others: the next pass gathers anew.

    Without it a pass after a change of the parameters could see the old ones.
    """
    if not torch.distributed.is_initialized():
        return
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def is_first_process() -> bool:
    """Whether this process is the one that writes; so is one that trains alone."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def clip_norm(parameters: Iterable[nn.Parameter], limit: float) -> float:
    """Clip the norm of all gradients together, across shards; returns the norm before."""
    return float(whole(nn.utils.clip_grad_norm_(list(parameters), limit)))
