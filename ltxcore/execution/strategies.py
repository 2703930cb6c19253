"""The plans of a stage, from the fastest to the smallest: recipes that force them by the user's own keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ltxcore.config.recipe import Recipe
from ltxcore.execution.memory_plans import host_limit_bytes, plan_stage, with_auto_settings
from ltxcore.execution.stage_code import memory_of, placed_memory_of
from ltxcore.memory.plan import GIB, MemoryPlan, check_host
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import Stage
from ltxcore.pipeline.plan.out_of_memory_record import MAX_FAILED_PLANS, FailedPlan
from ltxcore.pipeline.plan.stage_plan import Changes, TransformerMemory, machine_for
from ltxcore.pipeline.plan.transformer_plan import Machine
from ltxcore.stages.embed_text.memory import LAYER_BY_LAYER

AS_ASKED = "as the recipe says"


class NoPlanLeft(RuntimeError):
    """Every plan of a stage has run out of memory."""


@dataclass(frozen=True)
class Strategy:
    """A recipe that asks for a way of working, and the keys that it has beyond the user's."""

    name: str
    recipe: Recipe


@dataclass(frozen=True)
class Choice:
    """The strategy that a stage works by, and what it is predicted to need."""

    strategy: Strategy
    plan: MemoryPlan


def strategies(stage: Stage, recipe: Recipe) -> list[Strategy]:
    """Every strategy of a stage for a recipe, the recipe's own first.

    On a device the planner has finer steps for the stages that run the transformer.
    """
    found = [Strategy(AS_ASKED, _with_encoder_loading(recipe))]
    names: list[str] = []
    memory = memory_of(stage)
    for changes in memory.steps(recipe) if memory else ():
        before = found[-1].recipe
        changed = _changed(before, changes)
        if changed != before:
            names += _described(changes)
            found.append(Strategy(", ".join(names), changed))
    return found


def choose(ctx: Context, stage: Stage, device: str, failed: Sequence[FailedPlan] = ()) -> Choice:
    """The fastest strategy that is predicted to fit, after those that have run out of memory already.

    Raises:
        OverBudget: none fits; nothing is loaded then.
        StrategyUnavailable: the recipe asks for one that cannot be had here.
        NoPlanLeft: the smallest one has failed.
    """
    ctx = with_auto_settings(ctx, stage)
    check_host(stage.name, host_limit_bytes(ctx, stage))
    placed = placed_memory_of(stage)
    if placed is not None and (machine := machine_for(ctx, device)) is not None:
        return _choose_placed(ctx, stage, placed, machine, failed)
    choices = [
        Choice(strategy, _plan(ctx, stage, strategy, device)) for strategy in strategies(stage, ctx.recipe)
    ]
    names = {failed_plan.plan for failed_plan in failed}
    after = max((n for n, choice in enumerate(choices) if choice.strategy.name in names), default=-1) + 1
    if after == len(choices):
        raise NoPlanLeft(
            f"{stage.name} has run out of memory with {choices[-1].strategy.name}, its smallest plan: "
            f"{choices[-1].plan.total_bytes / GIB:.1f} GiB predicted, "
            f"{choices[-1].plan.budget_bytes / GIB:.1f} allowed; allow more or use smaller clips"
        )
    for choice in choices[after:]:
        if choice.plan.fits:
            return choice
    raise choices[-1].plan.over_budget()


def _choose_placed(
    ctx: Context,
    stage: Stage,
    memory: TransformerMemory,
    machine: Machine,
    failed: Sequence[FailedPlan],
) -> Choice:
    """The planner's choice, or after failed plans the fastest of its plans that takes clearly less."""
    exhausted = [failed_plan.exhausted for failed_plan in failed]
    last = len(failed) == MAX_FAILED_PLANS - 1
    plan = memory.plan_on_device(ctx, machine, exhausted, last)
    if plan is None:
        forced = ctx.recipe.memory.forced
        free = "" if forced == "auto" else f", set memory.strategy: auto instead of {forced}"
        raise NoPlanLeft(
            f"{stage.name} has run out of memory with {failed[-1].plan}, and no plan takes less; allow more "
            f"memory{free} or use smaller clips"
        )
    recipe = ctx.recipe
    if plan.tiled:
        recipe = _changed(recipe, {"encode": {"vae_enable_tiling": True}})
    return Choice(Strategy(plan.strategy if failed else AS_ASKED, recipe), plan)


def _plan(ctx: Context, stage: Stage, strategy: Strategy, device: str) -> MemoryPlan:
    plan = plan_stage(ctx.with_recipe(strategy.recipe), stage, device)
    return plan if strategy.name == AS_ASKED else replace(plan, strategy=strategy.name)


def _with_encoder_loading(recipe: Recipe) -> Recipe:
    """`auto` begins with the whole text encoder in memory, but where the recipe wants it outside."""
    if recipe.model.text_encoder_loading != "auto":
        return recipe
    where = LAYER_BY_LAYER if recipe.memory.ramtorch_text_encoder else "resident"
    return _changed(recipe, {"model": {"text_encoder_loading": where}})


def _changed(recipe: Recipe, changes: Changes) -> Recipe:
    sections = {
        name: getattr(recipe, name).model_copy(update=dict(values)) for name, values in changes.items()
    }
    return recipe.model_copy(update=sections)


def _described(changes: Changes) -> list[str]:
    return [
        f"{section}.{key}: {str(value).lower()}"
        for section, values in changes.items()
        for key, value in values.items()
    ]
