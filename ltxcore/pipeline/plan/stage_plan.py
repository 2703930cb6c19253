"""What the stages' memory plans are put together from, and the shape that each `memory.py` has."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from ltxcore.config.recipe import Recipe
from ltxcore.memory.arrangement import Arrangement
from ltxcore.memory.device import device_budget_bytes, device_name
from ltxcore.memory.plan import GIB, MemoryPlan, host_budget_bytes
from ltxcore.memory.planner.fallback import Exhausted
from ltxcore.memory.planner.render_planner import RenderingPlan
from ltxcore.memory.planner.training_planner import TrainingPlan
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import Stage
from ltxcore.pipeline.plan.transformer_plan import Machine

Changes = Mapping[str, Mapping[str, Any]]
"""Section of the recipe -> key -> value."""


class StageMemory(Protocol):
    """What a stage needs of memory: a module `memory.py`, which never loads torch."""

    def steps(self, recipe: Recipe) -> Sequence[Changes]:
        """What the stage can give up for memory, in this order; each step keeps the ones before it."""

    def weights_bytes(self, ctx: Context) -> int:
        """Bytes of all weights that it loads."""

    def plan(self, ctx: Context, device: str) -> MemoryPlan:
        """What it needs beside the interpreter: weights, and the work space of its largest item.

        Raises:
            OverBudget, StrategyUnavailable: of the stages that run the transformer on a device: no plan fits,
                or the recipe asks for one that cannot be.
        """


class TransformerMemory(StageMemory, Protocol):
    """Of a stage that runs the transformer, whose weights the planner places on a device."""

    def plan_on_device(
        self, ctx: Context, machine: Machine, failed: Sequence[Exhausted] = (), last: bool = False
    ) -> MemoryPlan | None:
        """The fastest plan that keeps within the budget; after plans that failed, the next smaller one.

        None where every plan takes as much as one that has failed.

        Args:
            ctx: with its automatic settings decided.
            machine: what it may have.
            failed: what ran out of memory before.
            last: there is no try after this one.

        Raises:
            OverBudget: none fits; names the smallest and says what would help.
            StrategyUnavailable: the recipe asks for what this model or machine cannot do.
        """


def machine_for(ctx: Context, device: str) -> Machine | None:
    """What a stage that runs the transformer plans with; None where there is no device."""
    budget = device_budget_bytes(device, ctx.recipe.memory.vram_gib)
    return None if budget is None else Machine.of(ctx, budget, device_name())


def stage_plan(
    ctx: Context, stage: Stage, device: str, *, weights: int, activations: int, adapter: int = 0
) -> MemoryPlan:
    """A plan of these bytes, with the budget that the stage has on a device."""
    budget = device_budget_bytes(device, ctx.recipe.memory.vram_gib)
    granted = host_budget_bytes(ctx.recipe.memory.ram_gib, weights + int(stage.ram_gib * GIB))
    return MemoryPlan(
        stage=stage.name,
        weights_bytes=weights,
        adapter_bytes=adapter,
        activations_bytes=activations,
        on_device=budget is not None,
        budget_bytes=granted if budget is None else budget,
    )


def placed_plan(
    stage: Stage,
    plan: TrainingPlan | RenderingPlan,
    arrangement: Arrangement,
    machine: Machine,
    *,
    tiled: bool = False,
) -> MemoryPlan:
    """A stage's plan, of the planner's for its transformer on a device."""
    return MemoryPlan(
        stage=stage.name,
        weights_bytes=plan.weights_bytes,
        adapter_bytes=plan.adapter_bytes,
        activations_bytes=plan.device_bytes - plan.weights_bytes - plan.adapter_bytes,
        on_device=True,
        budget_bytes=machine.budget.device_bytes,
        strategy=plan.description,
        arrangement=arrangement,
        host_bytes=plan.host_bytes,
        tiled=tiled,
        step_s=plan.step_s,
    )


def component_bytes(ctx: Context, components: Collection[str], value_bytes: int) -> int:
    """Bytes of the weights of parts of the model, loaded as the recipe says."""
    return sum(ctx.source.resident_bytes(component, value_bytes) for component in components)
