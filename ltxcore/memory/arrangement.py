"""Where a transformer's weights are while it computes. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Strategy = Literal["resident", "sharded", "block_streaming", "group_offload"]
"""`sharded`: on the host until the processes of a training shard it over their devices."""
Connectors = Literal["resident", "streamed", "precomputed"]
"""Where the text connectors' weights are: on the device, streamed to it in every step, or nowhere, because
their outputs were computed once, before the training."""


@dataclass(frozen=True)
class GroupSettings:
    """The recipe's `group_offload_*` keys: what is grouped, how, and where groups are kept."""

    kind: Literal["block_level", "leaf_level"] = "block_level"
    blocks_per_group: int = 1
    use_stream: bool = False
    disk: Path | None = None


@dataclass(frozen=True)
class Arrangement:
    """One way of placing the weights and of keeping the activations."""

    strategy: Strategy = "resident"
    resident: frozenset[int] = frozenset()
    """Positions of the blocks that stay on the device while others are streamed."""
    slots: int = 2
    groups: GroupSettings = field(default_factory=GroupSettings)
    checkpointed: int | None = None
    """How many blocks, the first ones, compute their activations anew in backward. None: all."""
    connectors: Connectors = "resident"


def spread_resident(blocks: int, resident: int) -> frozenset[int]:
    """Positions of `resident` blocks spread evenly, so that each streamed one is copied beside several."""
    if not 0 <= resident <= blocks:
        raise ValueError(f"of {blocks} blocks, {resident} cannot be resident; give 0 to {blocks}")
    return frozenset(number * blocks // resident for number in range(resident))


def last_streamed(blocks: int, swapped: int) -> frozenset[int]:
    """Positions of the resident blocks where the last `swapped` are streamed (`musubi_blocks_to_swap`)."""
    if not 0 <= swapped < blocks:
        raise ValueError(f"of {blocks} blocks, {swapped} cannot be swapped; give 0 to {blocks - 1}")
    return frozenset(range(blocks - swapped))


class StrategyUnavailable(ValueError):
    """The recipe asks for a strategy that this machine or model does not support; raised before loading."""
