"""What render-validation needs of memory: on a device by the planner, in host memory by its largest size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ltxcore.config.geometry import GEOMETRY
from ltxcore.config.recipe import Recipe
from ltxcore.config.value_types import type_bytes
from ltxcore.memory.plan import MemoryPlan
from ltxcore.memory.planner.fallback import Exhausted, next_plan
from ltxcore.memory.planner.render_planner import RenderingPlan, RenderPlanner, RenderWorkload
from ltxcore.memory.planner.training_planner import Forced
from ltxcore.models.vae.ways import LARGE_TILES, VaeWay, asked_way
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import RENDER
from ltxcore.pipeline.data.keyframes import keyframe_tokens
from ltxcore.pipeline.data.prompts import dataset_clips
from ltxcore.pipeline.data.rendering_size import settings_of_clips
from ltxcore.pipeline.data.tokens import reference_sound_tokens, reference_tokens
from ltxcore.pipeline.plan.arrangements import arrangement_of, forced_arrangement, forced_by
from ltxcore.pipeline.plan.auto_settings import settle
from ltxcore.pipeline.plan.stage_plan import (
    Changes,
    component_bytes,
    machine_for,
    placed_plan,
    stage_plan,
)
from ltxcore.pipeline.plan.transformer_plan import Machine, adapted, planner_of
from ltxcore.pipeline.plan.vae_room import VaeRoom
from ltxcore.stages.render_validation.standalone_models import (
    decoder_size,
    second_lora_bytes,
    standalone_values,
    upsampler_size,
)
from ltxcore.training.targets import default_targets
from ltxcore.validation.rendering_settings import DISTILLED_GUIDANCE, RenderSettings

STEPS: tuple[Changes, ...] = ({"encode": {"vae_enable_tiling": True}},)
# Stay on the device beside the transformer.
_REST = ("vae", "audio_vae", "vocoder")


def steps(recipe: Recipe) -> Sequence[Changes]:
    """Pictures decoded in tiles."""
    return STEPS


def weights_bytes(ctx: Context) -> int:
    """All of the model but its text encoder, and the models beside it."""
    values = _value_bytes(ctx)
    return component_bytes(ctx, RENDER.models, values) + standalone_values(ctx) * values


def plan(ctx: Context, device: str) -> MemoryPlan:
    """The first plan: on a device the planner's, otherwise that of host memory."""
    ctx = settle(ctx)
    if (machine := machine_for(ctx, device)) is not None:
        found = plan_on_device(ctx, machine)
        if found is None:
            raise RuntimeError(f"{RENDER.name} has no first plan")
        return found
    arrangement = forced_arrangement(ctx)
    found = stage_plan(
        ctx, RENDER, device, weights=weights_bytes(ctx), activations=_decoding_bytes(ctx, _value_bytes(ctx))
    )
    return replace(found, strategy=arrangement.strategy, arrangement=arrangement)


def plan_on_device(
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
        sum(ctx.source.resident_bytes(name, work.value_bytes) for name in _REST)
        + standalone_values(ctx) * work.value_bytes,
    )
    precision = ctx.recipe.model.base_model_precision
    forced = forced_by(ctx.recipe.memory, planner.planner.sizes.blocks, precision, device="cuda")
    if not failed:
        plan = planner.choose(work, machine.budget, precision, forced)
        return _placed(plan, planner, forced, machine)
    plans = planner.variants(work, precision, forced)
    found = next_plan(plans, machine.budget, failed, last)
    return None if found is None else _placed(found, planner, forced, machine)


def _placed(plan: RenderingPlan, planner: RenderPlanner, forced: Forced, machine: Machine) -> MemoryPlan:
    arrangement = arrangement_of(plan, planner.planner.sizes.blocks, forced)
    return placed_plan(RENDER, plan, arrangement, machine, tiled=plan.tiled)


def rendering_workload(ctx: Context) -> RenderWorkload:
    """A rendering of the largest size; with the adapter on the model, which is the larger of both."""
    recipe, plan = ctx.recipe, max(settings_of_clips(ctx), key=lambda plan: plan.width * plan.height)
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
        value_bytes=type_bytes(recipe.training.mixed_precision),
        upscale=plan.upscale,
        upsampler_channels=upsampler_size(ctx).channels,
        diffusion_channels=decoder_size(ctx).channels,
        second_lora_bytes=second_lora_bytes(ctx),
        beside_tokens=_beside_tokens(ctx, plan),
        beside_sound_tokens=_beside_sound_tokens(ctx),
    )


def _beside_sound_tokens(ctx: Context) -> int:
    """The most latents of a sound that a clip's rendering is given beside its own."""
    if ctx.recipe.given.sound_reference is None:
        return 0
    clips = dataset_clips(ctx.recipe, ctx.snapshot).values()
    return max((reference_sound_tokens(clip) for clip in clips), default=0)


def _beside_tokens(ctx: Context, plan: RenderSettings) -> int:
    """The most that the rendering of a clip or a prompt is given beside its own tokens."""
    given = ctx.recipe.given.video
    pictures = ctx.recipe.validation.keyframes.values()
    beside = [sum(at % plan.num_frames != 0 for at in frames) for frames in pictures]
    found = [0, *(count * GEOMETRY.video_tokens(1, plan.width, plan.height) for count in beside)]
    for clip in dataset_clips(ctx.recipe, ctx.snapshot).values():
        referred = reference_tokens(clip) if given.of_type("reference") is not None else 0
        size = clip.frames.count, *clip.geometry.target
        found.append(referred + keyframe_tokens(given.keyframes, *size))
    return max(found)


def _decoding_bytes(ctx: Context, value_bytes: int) -> int:
    channels = ctx.source.config("vae")["decoder_block_out_channels"][0]
    # Pieces along time are for the encoder, which looks back alone.
    way = VaeWay(None, asked_way(ctx.recipe.encode).tiles)
    room, plans = VaeRoom(0, channels, value_bytes), settings_of_clips(ctx)
    if (work := rendering_workload(ctx)).diffusion_channels:
        return work.decoding_bytes(channels, work.tiled)
    return max(room.work_bytes(way, (plan.num_frames, *plan.final_size)) for plan in plans)


def _value_bytes(ctx: Context) -> int:
    return type_bytes(ctx.recipe.training.mixed_precision)
