"""What judge-lora needs of memory: at most what a training of one clip at a time needs, in one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ltxcore.config.crepa_settings import CrepaSettings
from ltxcore.config.processes_settings import ProcessSettings
from ltxcore.config.recipe import Recipe
from ltxcore.memory.plan import MemoryPlan
from ltxcore.memory.planner.fallback import Exhausted
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import JUDGE
from ltxcore.pipeline.plan.auto_settings import settle
from ltxcore.pipeline.plan.stage_plan import Changes
from ltxcore.pipeline.plan.transformer_plan import Machine
from ltxcore.stages.train_lora import memory as train_lora_memory

STEPS: tuple[Changes, ...] = ({"memory": {"text_connectors": "precomputed"}},)


def steps(recipe: Recipe) -> Sequence[Changes]:
    """Captions through the connectors beforehand."""
    return STEPS


def weights_bytes(ctx: Context) -> int:
    """The transformer and the connectors."""
    return train_lora_memory.weights_bytes(ctx)


def plan(ctx: Context, device: str) -> MemoryPlan:
    """The first plan: on a device the planner's, otherwise that of host memory."""
    return replace(train_lora_memory.plan(_one_clip(settle(ctx)), device), stage=JUDGE.name)


def plan_on_device(
    ctx: Context, machine: Machine, failed: Sequence[Exhausted] = (), last: bool = False
) -> MemoryPlan | None:
    """The fastest plan that keeps within the budget; after plans that failed, the next smaller one.

    None where every plan takes as much as one that has failed.

    Raises:
        NothingFits, StrategyUnavailable: as the training's.
    """
    found = train_lora_memory.plan_on_device(_one_clip(ctx), machine, failed, last)
    return None if found is None else replace(found, stage=JUDGE.name)


def _one_clip(ctx: Context) -> Context:
    """A training in one process, of one clip at a time, which keeps no activations."""
    one = {"train_batch_size": 1, "gradient_checkpointing": True, "use_ema": False}
    changed = {
        "training": ctx.recipe.training.model_copy(update=one),
        "processes": ProcessSettings(),
        "crepa": CrepaSettings(),
    }
    return ctx.with_recipe(ctx.recipe.model_copy(update=changed))
