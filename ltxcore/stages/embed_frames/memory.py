"""What embed-frames needs of memory: the teacher, and the frames that pass it at once."""

from __future__ import annotations

from collections.abc import Sequence

from ltxcore.config.crepa_settings import PATCH
from ltxcore.config.recipe import Recipe
from ltxcore.config.value_types import type_bytes
from ltxcore.memory.plan import MemoryPlan, teacher_activations_bytes
from ltxcore.models.teacher import width_of
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import FRAMES
from ltxcore.pipeline.plan.stage_plan import Changes, stage_plan

STEPS: tuple[Changes, ...] = ({"crepa": {"crepa_encoder_batch_size": 1}},)
VALUE_BYTES = type_bytes("bf16")


def steps(recipe: Recipe) -> Sequence[Changes]:
    """One frame at a time."""
    return STEPS


def weights_bytes(ctx: Context) -> int:
    """The teacher."""
    return ctx.teacher.resident_bytes(VALUE_BYTES)


def plan(ctx: Context, device: str) -> MemoryPlan:
    """The teacher and as many frames as the recipe puts through it at once."""
    settings = ctx.recipe.crepa
    work = teacher_activations_bytes(
        tokens=(settings.crepa_encoder_image_size // PATCH) ** 2 + 1,
        width=width_of(settings),
        frames=settings.crepa_encoder_batch_size,
        value_bytes=VALUE_BYTES,
    )
    return stage_plan(ctx, FRAMES, device, weights=weights_bytes(ctx), activations=work)
