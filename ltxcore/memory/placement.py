"""Places a transformer as planned: where its blocks are, and which of them are checkpointed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ltxcore.memory.arrangement import Arrangement
from ltxcore.memory.streaming.block_streaming import BlockStreaming
from ltxcore.memory.streaming.group_offload import GroupOffloading

_BLOCKS = "transformer_blocks"


class Placement:
    """Keeps a transformer in its arrangement.

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
        self._outside: BlockStreaming | GroupOffloading | None = None
        blocks = transformer.transformer_blocks
        if arrangement.strategy == "resident":
            transformer.to(self.device)
        elif arrangement.strategy == "block_streaming":
            move_all_but(transformer, blocks, self.device)
            self._outside = BlockStreaming(
                blocks, self.device, resident=arrangement.resident, slots=arrangement.slots
            )
        elif arrangement.strategy == "group_offload":
            self._outside = GroupOffloading(transformer, self.device, arrangement.groups)

    @classmethod
    def as_it_is(cls, transformer: Any) -> Placement:
        """A resident transformer, on the device where it was loaded."""
        return cls(transformer, Arrangement(), next(transformer.parameters()).device)

    def hold_adapter(self, parameters: Iterable[nn.Parameter]) -> None:
        """Move a new adapter to the device; it was created beside its base weights, perhaps on the host."""
        for parameter in parameters:
            parameter.data = parameter.data.to(self.device)

    @contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """Within, the frozen weights of the module of that name may be read; elsewhere they may be away."""
        if self._outside is None:
            yield
            return
        _, _, within = name.partition(f"{_BLOCKS}.")
        with self._outside.reading(int(within.partition(".")[0]) if within else None):
            yield

    def enable_checkpointing(self) -> None:
        """Gradient checkpointing of as many blocks as are arranged.

        The last blocks are the ones that keep their activations: backward frees those before the first
        recomputation begins.
        """
        blocks = list(self._transformer.transformer_blocks)
        covered = self.arrangement.checkpointed
        kept = set() if covered is None else {id(block) for block in blocks[covered:]}
        # diffusers' groups are put back at the end of a forward pass, so a recomputation must get there.
        early_stop = not isinstance(self._outside, GroupOffloading)

        def run(block: nn.Module, *args: Any) -> Any:
            if id(block) in kept:
                return block(*args)
            return checkpoint(block, *args, use_reentrant=False, early_stop=early_stop)

        self._transformer.enable_gradient_checkpointing(run)

    def remove(self) -> None:
        """Remove the hooks; the weights stay where they are."""
        if self._outside is not None:
            self._outside.remove()


def move_all_but(model: nn.Module, kept: Iterable[nn.Module], device: torch.device) -> None:
    """Move a model to a device, except the modules in `kept` with all that is below them."""
    inside = {id(module) for root in kept for module in root.modules()}
    for module in model.modules():
        if id(module) not in inside:
            module._apply(lambda tensor: tensor.to(device), recurse=False)


# The feature extractor of each version: what it makes is stored, so training never runs it.
_EXTRACTORS = ("text_proj_in", "video_text_proj_in", "audio_text_proj_in")


def place_connectors(connectors: Any, device: torch.device | str, *, streamed: bool) -> BlockStreaming | None:
    """Bring to the device what training runs of the text connectors, and drop their feature extractor.

    Args:
        connectors: `LTX2TextConnectors`, frozen, on the host.
        device: where it computes.
        streamed: keep its blocks on the host and stream them, one after another, in every step.
    """
    for name in _EXTRACTORS:
        if getattr(connectors, name, None) is not None:
            setattr(connectors, name, None)
    device = torch.device(device)
    blocks = [*connectors.video_connector.transformer_blocks, *connectors.audio_connector.transformer_blocks]
    if not streamed:
        connectors.to(device)
        return None
    move_all_but(connectors, blocks, device)
    return BlockStreaming(blocks, device)
