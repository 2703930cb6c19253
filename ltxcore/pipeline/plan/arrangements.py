"""From the recipe's memory keys to what the planner may choose, and from a plan to what carries it out."""

from __future__ import annotations

from ltxcore.config.batch_size import AUTO
from ltxcore.config.memory_settings import MemorySettings
from ltxcore.config.recipe import Recipe
from ltxcore.config.weight_precisions import NO_CHANGE
from ltxcore.memory.arrangement import (
    Arrangement,
    GroupSettings,
    StrategyUnavailable,
    last_streamed,
    spread_resident,
)
from ltxcore.memory.planner.render_planner import RenderingPlan
from ltxcore.memory.planner.training_planner import Forced, TrainingPlan
from ltxcore.pipeline.base.context import Context


def forced_by(memory: MemorySettings, blocks: int, precision: str, device: str) -> Forced:
    """What the recipe's memory keys leave no choice about.

    Raises:
        StrategyUnavailable: says which key, why, and what to write instead.
    """
    way = memory.forced
    connectors = None if memory.text_connectors == "auto" else memory.text_connectors
    groups = group_settings(memory)
    require_strategy(memory, precision, device)
    if memory.musubi_blocks_to_swap >= blocks:
        raise StrategyUnavailable(
            f"musubi_blocks_to_swap is {memory.musubi_blocks_to_swap}, but the model has {blocks} blocks and "
            f"one must stay; give at most {blocks - 1}"
        )
    if memory.resident_blocks is not None and memory.resident_blocks >= blocks:
        raise StrategyUnavailable(
            f"resident_blocks is {memory.resident_blocks}, but the model has {blocks} blocks; give at most "
            f"{blocks - 1}, or strategy: resident"
        )
    if memory.musubi_blocks_to_swap:
        return Forced("musubi", swapped_blocks=memory.musubi_blocks_to_swap, connectors=connectors)
    if way == "auto":
        return Forced(connectors=connectors)
    return Forced(way, resident_blocks=memory.resident_blocks, connectors=connectors, groups=groups)


def require_strategy(memory: MemorySettings, precision: str, device: str) -> None:
    """See that a machine of this kind can do what the memory keys ask for, whatever the model.

    Raises:
        StrategyUnavailable: says which key, why, and what to write instead.
    """
    way = memory.forced
    if way == "ramtorch" and device != "cuda":
        raise StrategyUnavailable(
            "ramtorch keeps the weights in host memory and computes on a CUDA device, and this machine has "
            "none; leave ramtorch out (strategy: auto)"
        )
    if way == "group_offload" and precision not in (NO_CHANGE, AUTO):
        raise StrategyUnavailable(
            f"group offload cannot move weights of base_model_precision {precision}; use strategy: "
            "block_streaming, which can, or base_model_precision: no_change"
        )
    if way == "group_offload" and memory.group_offload_use_stream and device != "cuda":
        raise StrategyUnavailable(
            "group_offload_use_stream needs a CUDA device, and this machine has none; leave it out"
        )


def training_memory(recipe: Recipe) -> MemorySettings:
    """The memory keys of a training: what is compiled stays in place, where the recipe does not say."""
    memory = recipe.memory
    compiled = recipe.training.torch_compile and memory.forced == "auto"
    return memory.model_copy(update={"strategy": "resident"}) if compiled else memory


def require_compilable(recipe: Recipe) -> None:
    """See that weights stay where they are if they are to be compiled.

    Raises:
        StrategyUnavailable: they are streamed or sharded.
    """
    if not recipe.training.torch_compile:
        return
    way = "sharded" if recipe.processes.sharded else recipe.memory.forced
    if way not in ("auto", "resident"):
        raise StrategyUnavailable(
            f"training.torch_compile needs weights that stay in place, but memory.strategy is {way}; write "
            "torch_compile: false, or memory.strategy: resident"
        )


def group_settings(memory: MemorySettings) -> GroupSettings:
    """The recipe's `group_offload_*` keys."""
    return GroupSettings(
        memory.group_offload_type,
        memory.group_offload_blocks_per_group,
        memory.group_offload_use_stream,
        memory.group_offload_to_disk_path,
    )


def forced_arrangement(ctx: Context) -> Arrangement:
    """What the recipe forces on a machine without a device, where every strategy takes the same memory.

    Raises:
        StrategyUnavailable: the strategy needs a device.
    """
    if ctx.recipe.processes.sharded:
        return Arrangement("sharded")
    blocks = int(ctx.source.config("transformer")["num_layers"])
    forced = forced_by(ctx.recipe.memory, blocks, ctx.recipe.model.base_model_precision, device="cpu")
    connectors = forced.connectors or "resident"
    if forced.way in (None, "resident"):
        return Arrangement(connectors=connectors)
    if forced.way == "group_offload":
        return Arrangement("group_offload", groups=forced.groups, connectors=connectors)
    resident = blocks - forced.swapped_blocks if forced.way == "musubi" else forced.resident_blocks or 0
    if resident == blocks:
        return Arrangement(connectors=connectors)
    return Arrangement("block_streaming", _positions(forced, blocks, resident), connectors=connectors)


def arrangement_of(plan: TrainingPlan | RenderingPlan, blocks: int, forced: Forced) -> Arrangement:
    """What carries a plan out. RamTorch and musubi block swap are the project's own streaming."""
    if plan.way == "resident":
        return Arrangement(checkpointed=plan.checkpointed, connectors=plan.connectors)
    if plan.way == "group_offload":
        return Arrangement(
            "group_offload",
            groups=forced.groups,
            checkpointed=plan.checkpointed,
            connectors=plan.connectors,
        )
    return Arrangement(
        "block_streaming",
        _positions(forced, blocks, plan.resident),
        checkpointed=plan.checkpointed,
        connectors=plan.connectors,
    )


def _positions(forced: Forced, blocks: int, resident: int) -> frozenset[int]:
    if forced.way == "musubi":
        return last_streamed(blocks, forced.swapped_blocks)
    return spread_resident(blocks, resident)
