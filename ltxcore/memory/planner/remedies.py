"""Proposes changes if no plan fits: each change is planned, and the cheapest are named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ltxcore.memory.plan import GIB
from ltxcore.memory.planner.training_planner import (
    Budget,
    Forced,
    NothingFits,
    Planner,
    TrainingPlan,
    Workload,
    excess,
)

TOLD = 3
SMALLEST_EDGE = 256
# What a change costs, on a scale where half of the frames is 0.5.
_PRECISION_COST = {"int8-quanto": 0.1, "int4-quanto": 0.35}
_FREE_STRATEGY_COST = 0.02


def choose_or_advise(
    planner: Planner, workload: Workload, budget: Budget, precision: str, forced: Forced
) -> TrainingPlan:
    """The fastest plan that fits.

    Raises:
        NothingFits: none does; with the three cheapest changes that would, each with its own figures.
    """
    try:
        return planner.choose(workload, budget, precision, forced)
    except NothingFits as error:
        changes = remedies(planner, workload, budget, precision, forced)
        advice = ". What would fit:" + "".join(f"\n  {change}" for change in changes)
        raise NothingFits(error.nearest, workload, budget, advice) from None


def remedies(
    planner: Planner, workload: Workload, budget: Budget, precision: str, forced: Forced
) -> list[str]:
    """The three cheapest changes with which a plan fits, with that plan's figures."""
    found = []
    for cost, what, changed, changed_budget, changed_precision, changed_forced in _changes(
        planner, workload, budget, precision, forced
    ):
        plans = planner.plans(changed, changed_budget, changed_precision, changed_forced)
        fitting = [plan for plan in plans if plan.fits(changed_budget)]
        if fitting:
            best = min(fitting, key=lambda plan: plan.step_s)
            found.append((cost, f"{what} -> {best}"))
    return [text for _, text in sorted(found)[:TOLD]]


Change = tuple[float, str, Workload, Budget, str, Forced]


def _changes(
    planner: Planner, workload: Workload, budget: Budget, precision: str, forced: Forced
) -> Iterator[Change]:
    if forced.way is not None:
        yield _FREE_STRATEGY_COST, "strategy: auto", workload, budget, precision, Forced()
    if precision == "no_change":
        for name, cost in _PRECISION_COST.items():
            what = f"base_model_precision: {name}"
            kept = Forced() if forced.way == "group_offload" else forced
            yield cost, what, workload, budget, name, kept
    if not workload.checkpointing:
        changed = replace(workload, checkpointing=True)
        yield 0.05, "gradient_checkpointing: true", changed, budget, precision, forced
    if workload.batch > 1:
        batch = planner.largest_batch(replace(workload, batch=1), budget, precision, forced)
        if 0 < batch < workload.batch:
            what = f"train_batch_size: {batch}"
            cost = 0.3 * (1 - batch / workload.batch)
            yield cost, what, replace(workload, batch=batch), budget, precision, forced
    yield from _smaller(planner, workload, budget, precision, forced)
    if precision == "no_change":
        kept = Forced() if forced.way == "group_offload" else forced
        for name, cost in _PRECISION_COST.items():
            if _fits(planner, workload, budget, name, kept):
                break
            for more, what, changed, *_ in _smaller(planner, workload, budget, name, kept):
                both = f"base_model_precision: {name} and {what}"
                yield cost + more, both, changed, budget, name, kept
    yield _more_memory(planner, workload, budget, precision, forced)


def _smaller(
    planner: Planner, workload: Workload, budget: Budget, precision: str, forced: Forced
) -> Iterator[Change]:
    """The most frames, and the highest resolution, that fit."""
    for frames in range(workload.frames - 8, 0, -8):
        fewer = replace(workload, frames=frames)
        if _fits(planner, fewer, budget, precision, forced):
            yield 1 - frames / workload.frames, f"num_frames: {frames}", fewer, budget, precision, forced
            break
    for percent in range(90, 20, -10):
        width, height = (
            max(32, edge * percent // 100 // 32 * 32) for edge in (workload.width, workload.height)
        )
        if min(width, height) < SMALLEST_EDGE:
            break
        lower = replace(workload, width=width, height=height)
        if _fits(planner, lower, budget, precision, forced):
            cost = 1 - width * height / (workload.width * workload.height)
            yield cost, f"a resolution of {width}x{height}", lower, budget, precision, forced
            break


def _more_memory(
    planner: Planner, workload: Workload, budget: Budget, precision: str, forced: Forced
) -> Change:
    """The least memory, of both kinds, with which one of the ways fits."""
    plans = planner.plans(workload, budget, precision, forced)
    need = min(plans, key=lambda plan: excess(plan, budget))
    more = Budget(max(budget.device_bytes, need.device_bytes), max(budget.host_bytes, need.host_bytes))
    parts = [
        f"memory.{key}: {-(-wanted * 10 // GIB) / 10:.1f}"
        for key, wanted, had in (
            ("vram_gib", more.device_bytes, budget.device_bytes),
            ("ram_gib", more.host_bytes, budget.host_bytes),
        )
        if wanted > had
    ]
    return excess(need, budget), " and ".join(parts), workload, more, precision, forced


def _fits(planner: Planner, workload: Workload, budget: Budget, precision: str, forced: Forced) -> bool:
    return any(plan.fits(budget) for plan in planner.plans(workload, budget, precision, forced))
