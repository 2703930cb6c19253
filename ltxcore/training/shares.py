"""Tensors of which each process may hold a share (FSDP2), whole and in shares again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def gathered(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors whole, where each process has a share of them. All processes ask at once."""
    return {name: whole(tensor) for name, tensor in tensors.items()}


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor whole, where each process has a share of it. All processes ask at once."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def spread(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This process's share of a whole tensor, on the device and in the layout of `like`."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor) or tensor.ndim == 0:
        return tensor.to(like.device)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def drop_gathered(model: Any) -> None:
    """Let every process forget what it has gathered of the others' shares: the next pass gathers anew.

    Without it a pass after a change of the parameters could see them as they were.
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
