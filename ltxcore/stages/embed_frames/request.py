"""What the result of embed-frames depends on."""

from __future__ import annotations

from typing import Any

from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import FRAMES
from ltxcore.pipeline.base.stamp import Stamp
from ltxcore.stages.embed_frames.checks import check_crepa, require_enabled
from ltxcore.stages.embed_frames.teacher_space import TeacherSpace
from ltxcore.store.latents import LatentStore


def request(ctx: Context) -> dict[str, Any]:
    """All that the teacher's features depend on, as plain JSON."""
    require_enabled(ctx.recipe)
    snapshot = ctx.require_snapshot(FRAMES)
    check_crepa(ctx, audio_only=all(sample.kind == "audio" for sample in snapshot.samples))
    return {"data": snapshot.data_id, **TeacherSpace.of(ctx).request()}


def present(ctx: Context, stamp: Stamp) -> bool:
    """Whether the store still has every feature."""
    return not LatentStore(ctx.store).missing(all_keys(ctx))


def needs(ctx: Context) -> dict[str, list[str]]:
    """The keys of the store that this request stands on."""
    return {"latents": all_keys(ctx)}


def all_keys(ctx: Context) -> list[str]:
    """The keys of all samples' features."""
    space = TeacherSpace.of(ctx)
    return [key for sample in ctx.snapshot.samples for key in space.keys(sample)]


def quarantined(ctx: Context, store: LatentStore) -> dict[str, str]:
    """Sample id -> why its frames could not be read."""
    space = TeacherSpace.of(ctx)
    errors = {}
    for sample in ctx.snapshot.samples:
        for key in space.keys(sample):
            if (error := store.error(key)) is not None:
                errors[sample.id] = error
    return errors
