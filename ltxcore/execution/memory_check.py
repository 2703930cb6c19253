"""Whether each stage has a plan that fits in memory, asked before anything is spent."""

from __future__ import annotations

from collections.abc import Iterable

from ltxcore.execution.strategies import choose
from ltxcore.memory.arrangement import StrategyUnavailable
from ltxcore.memory.device import likely_device
from ltxcore.memory.plan import MemoryPlan, OverBudget
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import Stage


def memory_plans(ctx: Context, stages: Iterable[Stage]) -> tuple[dict[str, MemoryPlan], list[str]]:
    """The plan that each stage would take on this machine, by name, and the refusals of those without one.

    Only the machine is asked, not its load: failed plans of earlier runs are a stage's own business.
    """
    device = likely_device()
    plans: dict[str, MemoryPlan] = {}
    refusals = []
    for stage in stages:
        if not stage.models:
            continue
        try:
            plans[stage.name] = choose(ctx, stage, device).plan
        except (OverBudget, StrategyUnavailable) as error:
            message = str(error)
            refusals.append(message if message.startswith(stage.name) else f"{stage.name}: {message}")
    return plans, refusals
