"""The plans of a stage, from the fastest to the smallest: recipes that force them by the user's own keys."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ltxcore.config.recipe import Recipe
from ltxcore.memory.plan import GIB, MemoryPlan, check_host
from ltxcore.models.precisions import NO_CHANGE
from ltxcore.stages.context import Context
from ltxcore.stages.contract import FRAMES, LATENTS, RENDER, TEXT, TRAIN, Stage
from ltxcore.stages.memory_plans import host_limit_bytes, plan_stage

Changes = Mapping[str, Mapping[str, Any]]
AS_ASKED = "as the recipe says"
# What each stage can give up for memory, in this order; each step keeps the ones before it.
STEPS: Mapping[str, tuple[Changes, ...]] = {
    LATENTS.name: (
        {"encode": {"vae_batch_size": 1}},
        {"encode": {"vae_enable_patch_conv": True}},
        {"encode": {"vae_enable_temporal_roll": True}},
        {"encode": {"vae_enable_tiling": True}},
    ),
    TEXT.name: ({"model": {"text_encoder_loading": "layer_by_layer"}},),
    FRAMES.name: (
        {"crepa": {"crepa_encoder_batch_size": 2}},
        {"crepa": {"crepa_encoder_batch_size": 1}},
    ),
    TRAIN.name: ({"training": {"gradient_checkpointing": True}},),
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
    if stage is TEXT and (asked.text_encoder_loading, asked.text_encoder_1_precision) != ("auto", NO_CHANGE):
        return found
    names: list[str] = []
    for changes in STEPS.get(stage.name, ()):
        before = found[-1].recipe
        changed = _changed(before, changes)
        if changed != before:
            names += _told(changes)
            found.append(Strategy(", ".join(names), changed))
    return found


def choose(ctx: Context, stage: Stage, device: str, failed: Collection[str] = ()) -> Choice:
    """The fastest strategy that is predicted to fit, after those that have run out of memory already.

    Raises:
        OverBudget: none fits; nothing is loaded then.
        NoPlanLeft: the smallest one has failed.
    """
    check_host(stage.name, host_limit_bytes(ctx, stage))
    choices = [
        Choice(strategy, _plan(ctx, stage, strategy, device)) for strategy in strategies(stage, ctx.recipe)
    ]
    after = max((n for n, choice in enumerate(choices) if choice.strategy.name in failed), default=-1) + 1
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


def _plan(ctx: Context, stage: Stage, strategy: Strategy, device: str) -> MemoryPlan:
    plan = plan_stage(ctx.with_recipe(strategy.recipe), stage, device)
    return plan if strategy.name == AS_ASKED else replace(plan, strategy=strategy.name)


def _settled(recipe: Recipe) -> Recipe:
    """`auto` begins with the whole text encoder in memory."""
    if recipe.model.text_encoder_loading != "auto":
        return recipe
    return _changed(recipe, {"model": {"text_encoder_loading": "resident"}})


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
