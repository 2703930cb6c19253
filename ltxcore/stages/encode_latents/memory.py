"""What encode-latents needs of memory: both VAEs, and its clips, each in the fastest way that fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ltxcore.config.recipe import Recipe
from ltxcore.config.value_types import type_bytes
from ltxcore.memory.plan import MemoryPlan
from ltxcore.models.vae.ways import WAYS, VaeWay, asked_way
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import LATENTS
from ltxcore.pipeline.plan.stage_plan import Changes, component_bytes, stage_plan
from ltxcore.pipeline.plan.vae_room import VaeRoom

STEPS: tuple[Changes, ...] = (
    {"encode": {"vae_batch_size": 1}},
    {"encode": {"vae_enable_patch_conv": True}},
    {"encode": {"vae_enable_temporal_roll": True}},
    {"encode": {"vae_enable_tiling": True}},
)


def steps(recipe: Recipe) -> Sequence[Changes]:
    """Clips one by one, in pieces along time, and at last in tiles, which are part of the latents' key."""
    return STEPS


def weights_bytes(ctx: Context) -> int:
    """The VAEs of pictures and of sound, where the data has any."""
    samples = ctx.snapshot.samples
    needed = {"vae": any(s.kind != "audio" for s in samples), "audio_vae": any(s.audio for s in samples)}
    components = {name for name, is_needed in needed.items() if is_needed}
    return component_bytes(ctx, components, type_bytes(ctx.recipe.encode.vae_dtype))


def vae_room(ctx: Context, device: str) -> VaeRoom:
    """What clips may take beside both VAEs' weights."""
    empty = stage_plan(ctx, LATENTS, device, weights=weights_bytes(ctx), activations=0)
    channels = ctx.source.config("vae")["block_out_channels"][0]
    value_bytes = type_bytes(ctx.recipe.encode.vae_dtype)
    return VaeRoom(empty.budget_bytes - empty.total_bytes, channels, value_bytes)


def plan(ctx: Context, device: str) -> MemoryPlan:
    """Each size of clip in the fastest way that fits, from the recipe's own on."""
    settings, room = ctx.recipe.encode, vae_room(ctx, device)
    first, clips = asked_way(settings), 1 if settings.vae_enable_slicing else settings.vae_batch_size
    work, ways = 0, {first}
    pictures = [sample for sample in ctx.snapshot.samples if sample.kind != "audio"]
    for size in {(sample.frames.count, *sample.geometry.target) for sample in pictures}:
        way = room.way_for(first, size)
        ways.add(way)
        work = max(work, room.clips_for(way, size, clips) * room.work_bytes(way, size))
    found = stage_plan(ctx, LATENTS, device, weights=weights_bytes(ctx), activations=work)
    smallest = max(ways, key=lambda way: WAYS.index(way) if way in WAYS else 0)
    return found if smallest == VaeWay() else replace(found, strategy=smallest.name)
