"""Hooks on what autograd keeps for backward, which leave those of gradient checkpointing in force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks


def keep_instead(
    note: Callable[[torch.Tensor], Any], is_note: Callable[[Any], bool], find: Callable[[Any], torch.Tensor]
) -> saved_tensors_hooks:
    """Keep notes in place of some tensors, and hand the others to the hooks that were there before.

    Autograd asks only the innermost hooks. Those of gradient checkpointing must still see the activations,
    or checkpointing would save nothing.

    Args:
        note: what to keep instead of a tensor of any shape; a returned tensor is kept in its place.
        is_note: whether a kept value came from `note` rather than from the earlier hooks.
        find: the tensor that a note stands for.
    """
    outer = torch._C._autograd._top_saved_tensors_default_hooks(True)

    def pack(tensor: torch.Tensor) -> Any:
        noted = note(tensor)
        if not isinstance(noted, torch.Tensor):
            return noted
        # Detached, lest a node keep itself alive by its own output.
        return outer[0](noted) if outer else noted.detach()

    def unpack(kept: Any) -> torch.Tensor:
        if is_note(kept):
            return find(kept)
        found: torch.Tensor = outer[1](kept) if outer else kept
        return found

    return saved_tensors_hooks(pack, unpack)


def keep_storage_of_frozen() -> saved_tensors_hooks:
    """Keep the present values of frozen parameters, not the parameters: their data is exchanged later."""

    def note(tensor: torch.Tensor) -> torch.Tensor:
        frozen = isinstance(tensor, torch.nn.Parameter) and not tensor.requires_grad
        return tensor.detach() if frozen else tensor

    return keep_instead(note, lambda kept: False, lambda kept: kept)
