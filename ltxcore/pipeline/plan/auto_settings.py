"""Resolves `auto` precision and batch size, which change the trained numbers, from recipe and data alone.

The decision is part of the training's request, so it must not depend on the machine that asks: both budgets
are in the recipe (which refuses `auto` without them), and no card's speed goes into it.
"""

from __future__ import annotations

from dataclasses import replace

from ltxcore.config.batch_size import AUTO
from ltxcore.config.model_settings import WeightPrecision
from ltxcore.memory.plan import GIB, OverBudget
from ltxcore.memory.planner.cards import CARDS
from ltxcore.memory.planner.training_planner import RESERVE, Budget, Workload
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.plan.arrangements import forced_by
from ltxcore.pipeline.plan.transformer_plan import largest_sample, planner_of, workload_on
from ltxcore.store.snapshot import Sample

# The most exact first. The recipe's other precisions are for those who ask for them by name.
PRECISIONS: tuple[WeightPrecision, ...] = ("no_change", "int8-quanto", "int4-quanto")
# Its speed is asked for nowhere here.
_CARD = CARDS["4090"]


def settle(ctx: Context) -> Context:
    """The context with a recipe that leaves nothing open which changes a number; itself where nothing is.

    Raises:
        OverBudget: not even the smallest choice fits.
    """
    if ctx.recipe.model.base_model_precision == AUTO:
        ctx = _with_precision(ctx)
    return _with_batches(ctx) if ctx.recipe.training.train_batch_size == AUTO else ctx


def _with_precision(ctx: Context) -> Context:
    """The most exact precision for which some plan fits the largest bucket."""
    for precision in PRECISIONS:
        model = ctx.recipe.model.model_copy(update={"base_model_precision": precision})
        tried = ctx.with_recipe(ctx.recipe.model_copy(update={"model": model}))
        asked = tried.recipe.training.train_batch_size
        size = 1 if asked == AUTO else asked
        sample = largest_sample(tried.snapshot.samples, size, tried.recipe.given.video.keyframes)
        work = _work(tried, sample)
        if _largest_batch(tried, work) >= (1 if asked == AUTO else work.batch):
            return tried
    raise OverBudget(_refusal(ctx, f"base_model_precision: auto finds none of {', '.join(PRECISIONS)}"))


def _with_batches(ctx: Context) -> Context:
    """The largest batch of each bucket that fits and that its clips fill."""
    sizes: dict[str, int] = {}
    for bucket, samples in sorted(ctx.snapshot.buckets().items()):
        fitting = _largest_batch(ctx, _work(ctx, samples[0]))
        if not fitting:
            raise OverBudget(_refusal(ctx, f"train_batch_size: auto finds no batch of the bucket {bucket}"))
        sizes[bucket] = min(fitting, *_visits(samples))
    training = ctx.recipe.training.model_copy(update={"train_batch_size": sizes})
    return ctx.with_recipe(ctx.recipe.model_copy(update={"training": training}))


def _visits(samples: list[Sample]) -> list[int]:
    """Visits an epoch of the samples that may share a batch: of one frame rate, with or without sound."""
    alike: dict[tuple[float, bool, str], float] = {}
    for sample in samples:
        key = sample.frames.fps, sample.audio is not None, sample.kind
        alike[key] = alike.get(key, 0.0) + sample.visits * sample.probability
    return [max(1, int(visits)) for visits in alike.values()]


def _work(ctx: Context, sample: Sample) -> Workload:
    # How many captions there are matters to the disk, which is the machine's.
    return replace(workload_on(ctx, sample), captions=None)


def _largest_batch(ctx: Context, work: Workload) -> int:
    planner, precision = planner_of(ctx, _CARD), ctx.recipe.model.base_model_precision
    forced = forced_by(ctx.recipe.memory, planner.sizes.blocks, precision, device="cuda")
    vram, ram = _budgets(ctx)
    budget = Budget(int(vram * GIB * (1 - RESERVE)), int(ram * GIB))
    return planner.largest_batch(work, budget, precision, forced)


def _budgets(ctx: Context) -> tuple[float, float]:
    memory = ctx.recipe.memory
    if memory.vram_gib is None or memory.ram_gib is None:
        raise ValueError("auto needs memory.vram_gib and memory.ram_gib; the recipe is read with that check")
    return memory.vram_gib, memory.ram_gib


def _refusal(ctx: Context, what: str) -> str:
    vram, ram = _budgets(ctx)
    return (
        f"{what} with which a training fits into vram_gib {vram:g} and ram_gib {ram:g}; allow more, or use "
        "smaller clips (`ltx2 plan` says what they need)"
    )
