"""Proposes changes that make a training step faster, and explains why two cards of one size differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ltxcore.memory.planner.training_planner import (
    QUANTISED_TIME,
    Budget,
    Forced,
    Planner,
    TrainingPlan,
    Workload,
)

WORTH_IT = 0.95
"""Of the time as it is: less is no reason to change a recipe."""


def faster(
    planner: Planner, workload: Workload, budget: Budget, best: TrainingPlan, forced: Forced
) -> Iterator[str]:
    """Changes with which a step or a clip takes less time than with the plan as it is, each with its gain."""
    precision = best.precision
    if forced.way is not None:
        free = _fastest(planner, workload, budget, precision, Forced())
        yield from _gain("memory.strategy: auto", best.step_s, free)
    if precision == "no_change":
        yield from _gain(
            "model.base_model_precision: int8-quanto",
            best.step_s,
            _fastest(planner, workload, budget, "int8-quanto", forced),
        )
    more = min(planner.largest_batch(workload, budget, precision, forced), 4 * workload.batch)
    larger = _fastest(planner, replace(workload, batch=more), budget, precision, forced)
    if more > workload.batch and larger is not None:
        each, now = larger.step_s / more, best.step_s / workload.batch
        if each < now * WORTH_IT:
            yield (
                f"training.train_batch_size: {more}: {each:.2f} s a clip in place of {now:.2f} "
                f"({larger.step_s:.1f} s a step)"
            )


def bound_by(planner: Planner, workload: Workload, precision: str) -> str:
    """Why a card streams as many blocks as it does: whether a copy hides behind a block's computation."""
    sizes, card = planner.sizes, planner.card
    copy = sizes.block_bytes(precision, workload.value_bytes) / (card.bus_gb_s * 1e9)
    flop = sizes.forward_flop(workload.tokens) * workload.batch / sizes.blocks
    compute = flop / card.rate * QUANTISED_TIME.get(precision, max(QUANTISED_TIME.values()))
    figures = f"a block computes {compute * 1000:.0f} ms and its copy takes {copy * 1000:.0f}"
    if copy <= compute:
        return f"{figures}: copies are hidden, and blocks that stay would save nothing"
    return f"{figures}: each block that stays saves a part of a copy"


def _fastest(
    planner: Planner, workload: Workload, budget: Budget, precision: str, forced: Forced
) -> TrainingPlan | None:
    fitting = [plan for plan in planner.plans(workload, budget, precision, forced) if plan.fits(budget)]
    return min(fitting, key=lambda plan: plan.step_s, default=None)


def _gain(what: str, now: float, changed: TrainingPlan | None) -> Iterator[str]:
    if changed is not None and changed.step_s < now * WORTH_IT:
        yield f"{what}: {changed.step_s:.1f} s a step in place of {now:.1f}"
