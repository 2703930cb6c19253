"""How the transformer of a training is placed on this machine: from the recipe, the snapshot and headers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from ltxcore.config.memory_settings import MemorySettings
from ltxcore.config.recipe import Recipe
from ltxcore.memory.arrangement import (
    Arrangement,
    GroupSettings,
    StrategyUnavailable,
    last_streamed,
    spread_resident,
)
from ltxcore.memory.cards import Card, card_like
from ltxcore.memory.plan import GIB, MemoryPlan
from ltxcore.memory.planner import Budget, Forced, Planner, TrainingPlan, Workload
from ltxcore.memory.remedies import choose_or_advise
from ltxcore.memory.sizes import QUANTISED_BITS, Shapes, TransformerSizes
from ltxcore.stages.context import Context
from ltxcore.stages.contract import TRAIN
from ltxcore.stages.reports import video_tokens

# What the system and other programs keep of host memory where the recipe names no budget.
HOST_SHARE = 0.9
# The feature extractor: its output is stored, so training never loads it to the device.
_EXTRACTOR = "text_proj_in"


@dataclass(frozen=True)
class TrainingChoice:
    """The plan for a device, and the arrangement that carries it out."""

    plan: TrainingPlan
    arrangement: Arrangement
    budget: Budget

    def as_memory_plan(self) -> MemoryPlan:
        """The figures in the form that every stage has."""
        plan = self.plan
        return MemoryPlan(
            stage=TRAIN.name,
            weights_bytes=plan.weights_bytes,
            adapter_bytes=plan.adapter_bytes,
            activations_bytes=plan.device_bytes - plan.weights_bytes - plan.adapter_bytes,
            on_device=True,
            budget_bytes=self.budget.device_bytes,
            strategy=plan.way,
        )


def choose_for_device(ctx: Context, device_bytes: int, device_name: str) -> TrainingChoice:
    """The fastest plan that keeps within the budget.

    Raises:
        NothingFits: none does; says what would.
        StrategyUnavailable: the recipe asks for what this model or machine cannot do.
    """
    recipe = ctx.recipe
    ram = recipe.memory.ram_gib or psutil.virtual_memory().total * HOST_SHARE / GIB
    card = card_like(device_name, device_bytes / GIB, ram)
    planner = planner_for(
        ctx.source.shapes("transformer"),
        ctx.source.shapes("connectors"),
        ctx.source.config("transformer"),
        card,
        value_bytes=2 if recipe.training.mixed_precision == "bf16" else 4,
    )
    budget = Budget.of(card)
    precision = recipe.model.base_model_precision
    forced = forced_by(recipe.memory, planner.sizes.blocks, precision, device="cuda")
    plan = choose_or_advise(planner, workload_of(ctx), budget, precision, forced)
    return TrainingChoice(plan, arrangement_of(plan, planner.sizes.blocks, forced), budget)


def forced_arrangement(ctx: Context) -> Arrangement:
    """What the recipe forces on a machine without a device, where every strategy takes the same memory.

    Raises:
        StrategyUnavailable: the strategy needs a device.
    """
    blocks = int(ctx.source.config("transformer")["num_layers"])
    forced = forced_by(ctx.recipe.memory, blocks, ctx.recipe.model.base_model_precision, device="cpu")
    if forced.way in (None, "resident"):
        return Arrangement()
    if forced.way == "group_offload":
        return Arrangement("group_offload", groups=forced.groups)
    resident = blocks - forced.swapped_blocks if forced.way == "musubi" else forced.resident_blocks or 0
    if resident == blocks:
        return Arrangement()
    return Arrangement("block_streaming", _positions(forced, blocks, resident))


def planner_for(
    transformer: Shapes, connectors: Shapes, config: Mapping[str, Any], card: Card, value_bytes: int
) -> Planner:
    """A planner for a model's shapes, whether they come from headers or from the versions table."""
    sizes = TransformerSizes(
        transformer,
        width=config["num_attention_heads"] * config["attention_head_dim"],
        audio_width=config["audio_num_attention_heads"] * config["audio_attention_head_dim"],
    )
    run = [math.prod(shape) for name, shape in connectors.items() if _EXTRACTOR not in name]
    return Planner(sizes, sum(run) * value_bytes, card)


def workload_of(ctx: Context) -> Workload:
    """A step on the bucket with the most tokens."""
    largest = max(ctx.snapshot.samples, key=lambda sample: (video_tokens(sample), sample.id))
    width, height = largest.geometry.target
    return workload(
        ctx.recipe,
        width=width,
        height=height,
        frames=largest.frames.count,
        fps=largest.frames.fps,
        audio=any(sample.audio is not None for sample in ctx.snapshot.samples),
        text_tokens=ctx.source.text_max_tokens,
    )


def workload(
    recipe: Recipe, *, width: int, height: int, frames: int, fps: float, audio: bool, text_tokens: int
) -> Workload:
    """A step of a recipe on one bucket."""
    from ltxcore.training.lora import default_targets

    training = recipe.training
    return Workload(
        width,
        height,
        frames,
        batch=training.train_batch_size,
        fps=fps,
        audio=audio,
        text_tokens=text_tokens,
        rank=recipe.lora.lora_rank,
        targets=tuple(recipe.lora.lora_targets or default_targets(audio)),
        dropout=recipe.lora.lora_dropout > 0,
        per_token_times=training.ltx2_first_frame_conditioning_probability > 0,
        checkpointing=training.gradient_checkpointing,
        value_bytes=2 if training.mixed_precision == "bf16" else 4,
    )


def forced_by(memory: MemorySettings, blocks: int, precision: str, device: str) -> Forced:
    """What the recipe's memory keys leave no choice about.

    Raises:
        StrategyUnavailable: says which key, why, and what to write instead.
    """
    way = memory.forced
    groups = GroupSettings(
        memory.group_offload_type,
        memory.group_offload_blocks_per_group,
        memory.group_offload_use_stream,
        memory.group_offload_to_disk_path,
    )
    if way == "ramtorch" and device != "cuda":
        raise StrategyUnavailable(
            "ramtorch keeps the weights in host memory and computes on a CUDA device, and this machine has "
            "none; leave ramtorch out (strategy: auto)"
        )
    if way == "group_offload" and precision in QUANTISED_BITS:
        raise StrategyUnavailable(
            f"group offload cannot move weights of base_model_precision {precision}; use strategy: "
            "block_streaming, which can, or base_model_precision: no_change"
        )
    if way == "group_offload" and groups.use_stream and device != "cuda":
        raise StrategyUnavailable(
            "group_offload_use_stream needs a CUDA device, and this machine has none; leave it out"
        )
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
        return Forced("musubi", swapped_blocks=memory.musubi_blocks_to_swap)
    if way == "auto":
        return Forced()
    return Forced(way, resident_blocks=memory.resident_blocks, groups=groups)


def arrangement_of(plan: TrainingPlan, blocks: int, forced: Forced) -> Arrangement:
    """What carries a plan out. RamTorch and musubi block swap are the project's own streaming."""
    if plan.way == "resident":
        return Arrangement(checkpointed=plan.checkpointed)
    if plan.way == "group_offload":
        return Arrangement("group_offload", groups=forced.groups, checkpointed=plan.checkpointed)
    return Arrangement(
        "block_streaming",
        _positions(forced, blocks, plan.resident),
        checkpointed=plan.checkpointed,
        connectors_streamed=plan.connectors_streamed,
    )


def _positions(forced: Forced, blocks: int, resident: int) -> frozenset[int]:
    if forced.way == "musubi":
        return last_streamed(blocks, forced.swapped_blocks)
    return spread_resident(blocks, resident)
