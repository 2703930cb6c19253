"""How much memory a stage may use, and where the transformer's weights are."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from ltxcore.config.base import Strict

Strategy = Literal["auto", "resident", "block_streaming", "group_offload", "ramtorch"]


class MemorySettings(Strict):
    """The machine's memory that a stage may use, and where weights are. Left out: what the machine has.

    Each strategy trains the same adapter to the bit; they differ in time and memory.
    """

    vram_gib: float | None = Field(
        None, gt=0, description="Device memory that a stage may use. Default: what is free."
    )
    ram_gib: float | None = Field(
        None,
        gt=0,
        description=(
            "Host memory that a stage may use; a stage that uses more is stopped. Default: no "
            "stage is stopped, and plans use the machine's memory."
        ),
    )
    strategy: Strategy = Field(
        "auto",
        description="Where the transformer's weights are while it trains or renders. auto: the fastest "
        "that fits.",
    )
    text_connectors: Literal["auto", "resident", "streamed", "precomputed"] = Field(
        "auto",
        description="The text connectors while training: on the device, streamed to it, or run once for "
        "every caption before it, with their outputs on disk. auto: the fastest that fits.",
    )
    resident_blocks: int | None = Field(
        None, ge=0, description="Blocks that stay on the device under block_streaming. Default: all that fit."
    )
    musubi_blocks_to_swap: int = Field(
        0, ge=0, le=47, description="Number of blocks at the end that are streamed."
    )
    musubi_block_swap_device: Literal["cpu"] = Field("cpu", description="Where swapped blocks are kept.")
    ramtorch: bool = Field(False, description="All blocks in host memory, streamed. Needs CUDA.")
    ramtorch_text_encoder: bool = Field(
        False, description="Gemma in host memory or on disk, one layer after another. Needs CUDA."
    )
    ramtorch_vae: bool = Field(False, description="Not supported: both VAEs together take only 1.4 GiB.")
    enable_group_offload: bool = Field(
        False, description="Group offload by diffusers' hooks. If ramtorch is on too, ramtorch is used."
    )
    group_offload_type: Literal["block_level", "leaf_level"] = Field(
        "block_level", description="Offload whole blocks, or each layer separately."
    )
    group_offload_blocks_per_group: PositiveInt = Field(
        1, description="block_level: blocks that are copied together."
    )
    group_offload_use_stream: bool = Field(
        False, description="Copy on a separate stream during the computation. Needs CUDA."
    )
    group_offload_to_disk_path: Path | None = Field(
        None, description="A directory in whose files the groups are kept."
    )

    @model_validator(mode="after")
    def _one_strategy(self) -> MemorySettings:
        asked = {
            "musubi_blocks_to_swap": ("block_streaming", self.musubi_blocks_to_swap > 0),
            "ramtorch": ("ramtorch", self.ramtorch),
            "enable_group_offload": ("group_offload", self.enable_group_offload),
            "resident_blocks": ("block_streaming", self.resident_blocks is not None),
        }
        given = {key: strategy for key, (strategy, on) in asked.items() if on}
        if self.group_offload_replaced:
            del given["enable_group_offload"]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} each say where the weights are; keep one of them")
        for key, strategy in given.items():
            if self.strategy not in ("auto", strategy):
                raise ValueError(f"{key} means strategy: {strategy}, but strategy is {self.strategy}")
        return self

    @model_validator(mode="after")
    def _vaes_are_small(self) -> MemorySettings:
        if self.ramtorch_vae:
            raise ValueError(
                "ramtorch_vae is not offered: both VAEs take 1.4 GiB, and it is the clips that fill memory. "
                "Leave it out; where clips do not fit, write encode.vae_enable_temporal_roll: true and "
                "encode.vae_enable_tiling: true"
            )
        return self

    @property
    def group_offload_replaced(self) -> bool:
        """Whether ramtorch does what enable_group_offload asks for, too: both keep weights in host memory."""
        return self.ramtorch and self.enable_group_offload

    @property
    def forced(self) -> Strategy:
        """The strategy that the settings ask for, by name or by one of the seed's keys."""
        if self.ramtorch:
            return "ramtorch"
        if self.enable_group_offload:
            return "group_offload"
        if self.musubi_blocks_to_swap or self.resident_blocks is not None:
            return "block_streaming"
        return self.strategy
