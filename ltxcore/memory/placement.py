"""A transformer put to work as a plan says: where its blocks are, and which of them are checkpointed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ltxcore.memory.group_offload import GroupOffloading, GroupSettings
from ltxcore.memory.streaming import BlockStreaming

Strategy = Literal["resident", "block_streaming", "group_offload"]


@dataclass(frozen=True)
class Arrangement:
    """Where a transformer's weights are while it computes."""

    strategy: Strategy = "resident"
    resident: frozenset[int] = frozenset()
    """Positions of the blocks that stay on the device while others are streamed."""
    slots: int = 2
    groups: GroupSettings = field(default_factory=GroupSettings)
    checkpointed: int | None = None
    """How many blocks, the first ones, compute their activations anew in backward. None: all."""


class Placement:
    """What holds a transformer in its arrangement.

    Args:
        transformer: on the host, or on the device where it is to be resident; without adapter.
        arrangement: where its weights shall be.
        device: where it computes.

    Raises:
        PinningFailed, NotOffloadable: the arrangement is not possible here.
    """

    def __init__(self, transformer: Any, arrangement: Arrangement, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.arrangement = arrangement
        self._transformer = transformer
        self._held: BlockStreaming | GroupOffloading | None = None
        blocks = transformer.transformer_blocks
        if arrangement.strategy == "resident":
            transformer.to(self.device)
        elif arrangement.strategy == "block_streaming":
            move_all_but(transformer, blocks, self.device)
            self._held = BlockStreaming(
                blocks, self.device, resident=arrangement.resident, slots=arrangement.slots
            )
        else:
            self._held = GroupOffloading(transformer, self.device, arrangement.groups)

    @classmethod
    def as_it_is(cls, transformer: Any) -> Placement:
        """A resident transformer, on the device where it was loaded."""
        return cls(transformer, Arrangement(), next(transformer.parameters()).device)

    def hold_adapter(self, parameters: Iterable[nn.Parameter]) -> None:
        """Bring a new adapter to the device; it was made where the weights are that it goes beside."""
        for parameter in parameters:
            parameter.data = parameter.data.to(self.device)

    def enable_checkpointing(self) -> None:
        """Gradient checkpointing of as many blocks as are arranged.

        The last blocks are the ones that keep their activations: backward frees those before the first
        recomputation begins.
        """
        blocks = list(self._transformer.transformer_blocks)
        covered = self.arrangement.checkpointed
        kept = set() if covered is None else {id(block) for block in blocks[covered:]}
        # diffusers' groups are put back at the end of a forward pass, so a recomputation must get there.
        early_stop = not isinstance(self._held, GroupOffloading)

        def run(block: nn.Module, *args: Any) -> Any:
            if id(block) in kept:
                return block(*args)
            return checkpoint(block, *args, use_reentrant=False, early_stop=early_stop)

        self._transformer.enable_gradient_checkpointing(run)

    def remove(self) -> None:
        """Leave the weights where they are, without what held them."""
        if self._held is not None:
            self._held.remove()


def move_all_but(model: nn.Module, kept: Iterable[nn.Module], device: torch.device) -> None:
    """Move a model to a device, except the modules in `kept` with all that is below them."""
    inside = {id(module) for root in kept for module in root.modules()}
    for module in model.modules():
        if id(module) not in inside:
            module._apply(lambda tensor: tensor.to(device), recurse=False)
