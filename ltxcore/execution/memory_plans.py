"""The memory plans of the stages that load models, for a context."""

from __future__ import annotations

from ltxcore.execution.stage_code import memory_of, placed_memory_of
from ltxcore.memory.arrangement import StrategyUnavailable
from ltxcore.memory.plan import GIB, MemoryPlan, OverBudget, host_budget_bytes
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import TRAIN, Stage, asked_stages
from ltxcore.pipeline.data.tables import Row
from ltxcore.pipeline.plan.auto_settings import settle


def plan_stage(ctx: Context, stage: Stage, device: str = "cpu") -> MemoryPlan:
    """What a stage needs beside the interpreter: weights, and the work space of its largest item.

    Raises:
        OverBudget, StrategyUnavailable: of the stages that run the transformer on a device: no plan fits, or
            the recipe asks for one that cannot be.
        ValueError: it loads no models.
    """
    memory = memory_of(stage)
    if memory is None:
        raise ValueError(f"{stage.name} loads no models and has no memory plan")
    return memory.plan(ctx, device)


def with_auto_settings(ctx: Context, stage: Stage) -> Context:
    """The context as a stage needs it: the others know nothing of the transformer, nor of batches."""
    return settle(ctx) if placed_memory_of(stage) else ctx


def plan_rows(ctx: Context, measured: dict[str, int] | None = None, device: str = "cpu") -> list[Row]:
    """One row for each stage that loads models, with the measured peak where there is one."""
    rows = []
    for stage in asked_stages(ctx.recipe):
        if not stage.models:
            continue
        try:
            rows.append(plan_row(plan_stage(ctx, stage, device), (measured or {}).get(stage.name, 0)))
        except (OverBudget, StrategyUnavailable) as error:
            # Said by the stage itself when its turn comes; here it is a line of a table.
            rows.append({"stage": stage.name, "strategy": str(error).splitlines()[0]})
    return rows


def plan_row(plan: MemoryPlan, measured_bytes: int = 0) -> Row:
    """A plan, and the peak that was measured beside it; 0 where none was yet."""
    return {
        "stage": plan.stage,
        "strategy": plan.strategy,
        "weights GiB": round(plan.weights_bytes / GIB, 3),
        "adapter GiB": round(plan.adapter_bytes / GIB, 3),
        "work space GiB": round(plan.activations_bytes / GIB, 3),
        "predicted GiB": round(plan.total_bytes / GIB, 2),
        "budget GiB": round(plan.budget_bytes / GIB, 1),
        "measured GiB": round(measured_bytes / GIB, 2) or "",
    }


def host_limit_bytes(ctx: Context, stage: Stage) -> int:
    """What a stage may hold of host memory: the recipe's budget, or its own beside the weights it loads."""
    memory = memory_of(stage)
    weights = memory.weights_bytes(with_auto_settings(ctx, stage)) if memory else 0
    processes = ctx.recipe.processes.count if stage is TRAIN else 1
    return host_budget_bytes(ctx.recipe.memory.ram_gib, processes * (weights + int(stage.ram_gib * GIB)))
