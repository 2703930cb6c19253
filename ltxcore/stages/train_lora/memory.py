"""What train-lora needs of memory: on a device by the planner, in host memory by its largest bucket."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ltxcore.config.batch_size import clips_of
from ltxcore.config.recipe import Recipe
from ltxcore.config.value_types import type_bytes
from ltxcore.memory.arrangement import Arrangement
from ltxcore.memory.plan import (
    ADAPTER_BYTES_PER_PARAMETER,
    MemoryPlan,
    adapter_bytes,
    training_activations_bytes,
)
from ltxcore.memory.planner.alignment import alignment_bytes, projector_values
from ltxcore.memory.planner.fallback import Exhausted, next_plan
from ltxcore.memory.planner.remedies import choose_or_advise
from ltxcore.memory.planner.sharded_plan import sharded_plan
from ltxcore.memory.planner.training_planner import AVERAGE_BYTES, NothingFits, Planner, Workload
from ltxcore.memory.planner.weight_changes import WeightChanges
from ltxcore.models.teacher import width_of
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import TRAIN
from ltxcore.pipeline.data.tokens import video_tokens
from ltxcore.pipeline.plan.arrangements import arrangement_of, forced_arrangement, forced_by, training_memory
from ltxcore.pipeline.plan.auto_settings import settle
from ltxcore.pipeline.plan.stage_plan import (
    Changes,
    component_bytes,
    machine_for,
    placed_plan,
    stage_plan,
)
from ltxcore.pipeline.plan.transformer_plan import (
    Machine,
    adapted,
    largest_sample,
    planner_of,
    sizes_of,
    workload_of,
)

STEPS: tuple[Changes, ...] = (
    {"training": {"gradient_checkpointing": True}},
    {"memory": {"text_connectors": "precomputed"}},
)


def steps(recipe: Recipe) -> Sequence[Changes]:
    """Activations recomputed, and captions through the connectors beforehand."""
    return STEPS


def weights_bytes(ctx: Context) -> int:
    """The transformer and the connectors."""
    return component_bytes(ctx, ("transformer", "connectors"), _value_bytes(ctx))


def plan(ctx: Context, device: str) -> MemoryPlan:
    """The first plan: on a device the planner's, otherwise that of host memory."""
    ctx = settle(ctx)
    machine = machine_for(ctx, device)
    found = _plan_on_host(ctx) if machine is None else plan_on_device(ctx, machine)
    if found is None:
        raise RuntimeError(f"{TRAIN.name} has no first plan")
    return found


def plan_on_device(
    ctx: Context, machine: Machine, failed: Sequence[Exhausted] = (), last: bool = False
) -> MemoryPlan | None:
    """The fastest plan that keeps within the budget; after plans that failed, the next smaller one.

    None where every plan takes as much as one that has failed.

    Args:
        failed: what ran out of memory before.
        last: there is no try after this one.

    Raises:
        NothingFits: none does; says what would.
        StrategyUnavailable: the recipe asks for what this model or machine cannot do.
    """
    planner, work = planner_of(ctx, machine.card), workload_of(ctx)
    if ctx.recipe.processes.sharded:
        return None if failed else _plan_sharded(ctx, planner, work, machine)
    precision = ctx.recipe.model.base_model_precision
    forced = forced_by(training_memory(ctx.recipe), planner.sizes.blocks, precision, device="cuda")
    if not failed:
        plan = choose_or_advise(planner, work, machine.budget, precision, forced)
        return placed_plan(TRAIN, plan, arrangement_of(plan, planner.sizes.blocks, forced), machine)
    # Recomputing activations gives the same adapter: where memory runs out, the recipe's `false` gives way.
    work = replace(work, checkpointing=True)
    plans = planner.variants(work, machine.budget, precision, forced)
    found = next_plan(plans, machine.budget, failed, last)
    if found is None:
        return None
    return placed_plan(TRAIN, found, arrangement_of(found, planner.sizes.blocks, forced), machine)


def _plan_sharded(ctx: Context, planner: Planner, work: Workload, machine: Machine) -> MemoryPlan:
    """The one plan of processes that shard the transformer.

    Raises:
        NothingFits: it does not.
    """
    plan = sharded_plan(planner, work, ctx.recipe.processes.count)
    if not plan.fits(machine.budget):
        raise NothingFits(plan, work, machine.budget, "; more processes would share it further")
    return placed_plan(TRAIN, plan, Arrangement("sharded"), machine)


def _plan_on_host(ctx: Context) -> MemoryPlan:
    """In host memory: weights, adapter with its optimizer, and the activations of the largest bucket."""
    settings = ctx.recipe.training
    value_bytes = _value_bytes(ctx)
    config = ctx.source.config("transformer")
    width = config["num_attention_heads"] * config["attention_head_dim"]
    keyframes = ctx.recipe.given.video.keyframes
    largest = largest_sample(ctx.snapshot.samples, settings.train_batch_size, keyframes)
    tokens = video_tokens(largest, keyframes)
    batch = clips_of(settings.train_batch_size, largest.bucket)
    activations = training_activations_bytes(
        tokens=tokens,
        width=width,
        blocks=config["num_layers"],
        checkpointing=settings.gradient_checkpointing,
        batch=batch,
    )
    suffixes = adapted(ctx.recipe.lora, ("to_q", "to_k", "to_v", "to_out.0"))
    adapter = adapter_bytes(ctx.source.shapes("transformer"), suffixes, ctx.recipe.lora.rank_by_size)
    if settings.use_ema:
        adapter += adapter * AVERAGE_BYTES // ADAPTER_BYTES_PER_PARAMETER
    if ctx.recipe.lora.lycoris is not None:
        sizes = sizes_of(ctx.source.shapes("transformer"), config)
        changes = WeightChanges.of(ctx.recipe.lora.lycoris, suffixes, value_bytes)
        activations += changes.step_bytes(sizes, sizes.blocks if settings.gradient_checkpointing else 0)
    if ctx.recipe.crepa.crepa_enabled:
        widths = {"width": width, "teacher_width": width_of(ctx.recipe.crepa)}
        adapter += ADAPTER_BYTES_PER_PARAMETER * projector_values(**widths)
        activations += alignment_bytes(tokens=tokens, batch=batch, **widths)
    arrangement = forced_arrangement(ctx)
    weights = weights_bytes(ctx)
    if arrangement.connectors == "precomputed":
        # They are gone when the transformer is loaded.
        weights -= ctx.source.resident_bytes("connectors", value_bytes)
    found = stage_plan(ctx, TRAIN, "cpu", weights=weights, adapter=adapter, activations=activations)
    return replace(found, strategy=arrangement.strategy, arrangement=arrangement)


def _value_bytes(ctx: Context) -> int:
    return type_bytes(ctx.recipe.training.mixed_precision)
