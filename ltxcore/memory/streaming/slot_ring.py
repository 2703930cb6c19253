"""The ring of slots: which blocks' weights are on the device, and which come next."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ltxcore.memory.streaming.copy_stream import CopyStream, Slot
from ltxcore.memory.streaming.streamed_weights import POISON, BlockWeights

MIN_SLOTS = 2


class SlotRing:
    """A few slots that hold the weights of the block that computes, and of those that follow.

    Weights are only copied to the device: a block that leaves its slot has not changed.

    Args:
        weights: position -> weights of every block that is streamed.
        device: where the slots are.
        slots: how many; one computes while the others fill.
        copy_stream: what fills them.
        poison: overwrite a slot before it is filled anew, so that a use after eviction is loud (for tests).
    """

    def __init__(
        self,
        weights: Mapping[int, BlockWeights],
        device: torch.device,
        *,
        slots: int,
        copy_stream: CopyStream,
        poison: bool = False,
    ) -> None:
        if slots < MIN_SLOTS:
            raise ValueError(f"a ring of {slots} slots cannot copy beside computing; give {MIN_SLOTS} or 3")
        self._weights, self._copy_stream, self._poison = weights, copy_stream, poison
        self._order = sorted(weights)
        size = max(block.size_bytes for block in weights.values())
        self.slots = [
            Slot(torch.empty(size, dtype=torch.uint8, device=device))
            for _ in range(min(slots, len(self._order)))
        ]
        for slot in self.slots:
            slot.views = {number: block.views(slot.buffer) for number, block in weights.items()}
        self._bound: dict[int, Slot] = {}
        self._at: tuple[int, bool] | None = None
        self.copies = 0
        """Blocks that have been copied so far."""

    def enter(self, position: int, *, backward: bool, cycle: bool = False) -> None:
        """The block at `position`, streamed or not, computes next.

        Args:
            position: its place among all blocks.
            backward: the blocks before it follow, not those after it.
            cycle: after the last block the first follows, as where only forward passes are made.
        """
        if self._at == (position, backward):
            return
        self._leave()
        self._at = (position, backward)
        wanted = self._wanted(position, backward, cycle)
        for block in wanted:
            if self._slot_of(block) is None:
                self._fetch(block, keep=wanted)
        slot = self._slot_of(position)
        if slot is not None:
            self._copy_stream.wait(slot)
            if self._bound.get(position) is not slot:
                self._weights[position].bind(slot.views[position])
                self._bound[position] = slot

    def slot_at(self, address: int) -> Slot | None:
        """The slot whose memory begins at `address`."""
        return next((slot for slot in self.slots if slot.buffer.data_ptr() == address), None)

    def slot_with(self, block: int) -> Slot:
        """The slot that holds a block, which must have been entered."""
        slot = self._slot_of(block)
        if slot is None:
            raise LookupError(f"block {block} is in no slot; it was never entered")
        return slot

    def _leave(self) -> None:
        if self._at is not None:
            slot = self._slot_of(self._at[0])
            if slot is not None:
                self._copy_stream.mark_used(slot)

    def _wanted(self, position: int, backward: bool, cycle: bool) -> list[int]:
        """As many streamed blocks as there are slots, in the order in which they will compute."""
        if backward:
            ahead = [block for block in reversed(self._order) if block <= position]
        else:
            ahead = [block for block in self._order if block >= position]
            if cycle:
                ahead += [block for block in self._order if block < position]
        return ahead[: len(self.slots)]

    def _fetch(self, block: int, keep: list[int]) -> None:
        slot = next(slot for slot in self.slots if slot.block not in keep)
        if slot.block is not None:
            self._weights[slot.block].evict()
            self._bound.pop(slot.block, None)
        slot.block = block
        # The copy overwrites the slot itself: on another stream the poison could land after the weights.
        self._copy_stream.copy(slot, self._weights[block].arena.bytes, POISON if self._poison else None)
        self.copies += 1

    def _slot_of(self, block: int) -> Slot | None:
        return next((slot for slot in self.slots if slot.block == block), None)
