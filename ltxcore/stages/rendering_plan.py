"""How a validation's renderings are placed on this machine: from the recipe, the snapshot and headers."""

from __future__ import annotations

from collections.abc import Sequence

from ltxcore.memory.fallback import Exhausted, next_plan
from ltxcore.memory.plan import MemoryPlan
from ltxcore.memory.planner import Forced
from ltxcore.memory.render_planner import RenderingPlan, RenderPlanner, RenderWorkload
from ltxcore.models.vae_ways import LARGE_TILES
from ltxcore.stages.context import Context
from ltxcore.stages.contract import RENDER
from ltxcore.stages.placing import arrangement_of, forced_by
from ltxcore.stages.training_plan import Machine, adapted, planner_of
from ltxcore.stages.validation_clips import plan_of_clips
from ltxcore.validation.plan import DISTILLED_GUIDANCE, plan_rendering

BF16_BYTES, FP32_BYTES = 2, 4
# Stay on the device beside the transformer.
_REST = ("vae", "audio_vae", "vocoder")


def plan_rendering_on_device(
    ctx: Context, machine: Machine, failed: Sequence[Exhausted] = (), last: bool = False
) -> MemoryPlan | None:
    """The fastest plan that keeps within the budget; after plans that failed, the next smaller one.

    None where every plan takes as much as one that has failed.

    Raises:
        OverBudget: none fits; names the smallest and says what would help.
        StrategyUnavailable: the recipe asks for what this model or machine cannot do.
    """
    work = rendering_workload(ctx)
    planner = RenderPlanner(
        planner_of(ctx, machine.card),
        ctx.source.config("vae")["decoder_block_out_channels"][0],
        sum(ctx.source.resident_bytes(name, work.value_bytes) for name in _REST),
    )
    precision = ctx.recipe.model.base_model_precision
    forced = forced_by(ctx.recipe.memory, planner.planner.sizes.blocks, precision, device="cuda")
    if not failed:
        plan = planner.choose(work, machine.budget, precision, forced)
        return _memory_plan(plan, planner, forced, machine)
    plans = planner.variants(work, precision, forced)
    found = next_plan(plans, machine.budget, failed, last)
    return None if found is None else _memory_plan(found, planner, forced, machine)


def _memory_plan(plan: RenderingPlan, planner: RenderPlanner, forced: Forced, machine: Machine) -> MemoryPlan:
    return MemoryPlan(
        stage=RENDER.name,
        weights_bytes=plan.weights_bytes,
        adapter_bytes=plan.adapter_bytes,
        activations_bytes=plan.device_bytes - plan.weights_bytes - plan.adapter_bytes,
        on_device=True,
        budget_bytes=machine.budget.device_bytes,
        strategy=plan.told,
        arrangement=arrangement_of(plan, planner.planner.sizes.blocks, forced),
        host_bytes=plan.host_bytes,
        tiled=plan.tiled,
    )


def rendering_workload(ctx: Context) -> RenderWorkload:
    """One rendering of the recipe's size; with the adapter on the model, which is the larger of both."""
    from ltxcore.training.lora import default_targets

    recipe, plan = ctx.recipe, plan_of_clips(ctx, plan_rendering(ctx.recipe.validation))
    with_sound = any(sample.audio is not None for sample in ctx.snapshot.samples)
    return RenderWorkload(
        plan.width,
        plan.height,
        plan.num_frames,
        plan.fps,
        guided=plan.guidance > DISTILLED_GUIDANCE,
        text_tokens=ctx.source.text_max_tokens,
        rank=recipe.lora.rank_by_size,
        targets=adapted(recipe.lora, default_targets(with_sound)),
        lycoris=recipe.lora.lycoris,
        tile_pixels=LARGE_TILES.size,
        tiled=recipe.encode.vae_enable_tiling,
        value_bytes=BF16_BYTES if recipe.training.mixed_precision == "bf16" else FP32_BYTES,
    )
