"""The plans of a stage, from the fastest to the smallest: recipes that force them by the user's own keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ltxcore.config.recipe import Recipe
from ltxcore.config.weight_precisions import NO_CHANGE
from ltxcore.memory.arrangement import StrategyUnavailable
from ltxcore.memory.plan import GIB, MemoryPlan, check_host
from ltxcore.stages.context import Context
from ltxcore.stages.contract import FRAMES, LATENTS, RENDER, TEXT, TRAIN, Stage
from ltxcore.stages.memory_plans import (
    LAYER_BY_LAYER,
    host_limit_bytes,
    machine_for,
    plan_placed,
    plan_stage,
    settled_for,
)
from ltxcore.stages.setbacks import MAX_SETBACKS, Setback
from ltxcore.stages.training_plan import Machine

Changes = Mapping[str, Mapping[str, Any]]
AS_ASKED = "as the recipe says"
# What each stage can give up for memory, in this order; each step keeps the ones before it. On a device the
# planner has finer steps for the stages that run the transformer.
STEPS: Mapping[str, tuple[Changes, ...]] = {
    LATENTS.name: (
        {"encode": {"vae_batch_size": 1}},
        {"encode": {"vae_enable_patch_conv": True}},
        {"encode": {"vae_enable_temporal_roll": True}},
        {"encode": {"vae_enable_tiling": True}},
    ),
    TEXT.name: ({"model": {"text_encoder_loading": "layer_by_layer"}},),
    FRAMES.name: ({"crepa": {"crepa_encoder_batch_size": 1}},),
    TRAIN.name: (
        {"training": {"gradient_checkpointing": True}},
        {"memory": {"text_connectors": "precomputed"}},
    ),
    RENDER.name: ({"encode": {"vae_enable_tiling": True}},),
}


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

    A text encoder that the recipe wants resident, or layer by layer, stays so, and a quantised one is
    resident: its layers are quantised as they are read, which once for every batch would take too long.
    """
    found = [Strategy(AS_ASKED, _settled(recipe))]
    asked = recipe.model
    whole = (asked.text_encoder_loading, asked.text_encoder_1_precision) == ("auto", NO_CHANGE)
    if stage is TEXT and (not whole or recipe.memory.ramtorch_text_encoder):
        return found
    names: list[str] = []
    for changes in STEPS.get(stage.name, ()):
        before = found[-1].recipe
        changed = _changed(before, changes)
        if changed != before:
            names += _told(changes)
            found.append(Strategy(", ".join(names), changed))
    return found


def choose(ctx: Context, stage: Stage, device: str, failed: Sequence[Setback] = ()) -> Choice:
    """The fastest strategy that is predicted to fit, after those that have run out of memory already.

    Raises:
        OverBudget: none fits; nothing is loaded then.
        StrategyUnavailable: the recipe asks for one that cannot be had here.
        NoPlanLeft: the smallest one has failed.
    """
    ctx = settled_for(ctx, stage)
    if stage is TEXT and ctx.recipe.memory.ramtorch_text_encoder and device != "cuda":
        raise StrategyUnavailable(
            "ramtorch_text_encoder keeps Gemma out of a CUDA device's memory, and this machine has no such "
            "device; leave it out, or write model.text_encoder_loading: layer_by_layer"
        )
    check_host(stage.name, host_limit_bytes(ctx, stage))
    if (machine := machine_for(ctx, stage, device)) is not None:
        return _choose_placed(ctx, stage, machine, failed)
    choices = [
        Choice(strategy, _plan(ctx, stage, strategy, device)) for strategy in strategies(stage, ctx.recipe)
    ]
    names = {setback.plan for setback in failed}
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


def _choose_placed(ctx: Context, stage: Stage, machine: Machine, failed: Sequence[Setback]) -> Choice:
    """The planner's choice, or after setbacks the fastest of its plans that takes clearly less."""
    exhausted = [setback.exhausted for setback in failed]
    last = len(failed) == MAX_SETBACKS - 1
    plan = plan_placed(ctx, stage, machine, exhausted, last)
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


def _settled(recipe: Recipe) -> Recipe:
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


def _told(changes: Changes) -> list[str]:
    return [
        f"{section}.{key}: {str(value).lower()}"
        for section, values in changes.items()
        for key, value in values.items()
    ]
