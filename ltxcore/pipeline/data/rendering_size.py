"""The size at which a validation is rendered."""

from __future__ import annotations

from dataclasses import replace

from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.data.prompts import dataset_clips
from ltxcore.validation.rendering_settings import RenderSettings, of_each_size, settings_of_renderings


def settings_of_clips(ctx: Context) -> tuple[RenderSettings, ...]:
    """The renderings of every prompt: one for each size of the recipe, or the one of the clips."""
    # Clips, and a sound alone, have one size whatever the recipe asks.
    return of_each_size(
        _settings_of_clips(ctx, plan) for plan in settings_of_renderings(ctx.recipe.validation)
    )


def most_settings(ctx: Context) -> tuple[RenderSettings, ...]:
    """The most renderings of a prompt that there can be, where no clip is known yet."""
    settings = ctx.recipe.validation
    plans = settings_of_renderings(settings)
    if settings.validation_using_datasets:
        return plans[:1]
    modality = settings.validation_modality
    if modality == "auto":
        modality = "audio" if ctx.datasets.audio_only else "both"
    return of_each_size(plan.of(modality) for plan in plans)


def _settings_of_clips(ctx: Context, plan: RenderSettings) -> RenderSettings:
    """The plan at the size of the clips that are rendered; a picture gets the length that the recipe asks.

    Sound alone is rendered where the recipe says so, or leaves it open and all the data is sound.
    """
    modality = ctx.recipe.validation.validation_modality
    if modality == "auto":
        modality = "audio" if all(sample.kind == "audio" for sample in ctx.snapshot.samples) else "both"
    plan = plan.of(modality)
    clips = dataset_clips(ctx.recipe, ctx.snapshot)
    if not clips:
        return plan
    first = next(iter(clips.values()))
    width, height = first.geometry.target
    still = first.kind == "image"
    count, fps = (plan.num_frames, plan.fps) if still else (first.frames.count, first.frames.fps)
    note = f"validation_using_datasets: rendered at {width}x{height}, {count} frames, as the clips are"
    sized = replace(plan, width=width, height=height, num_frames=count, fps=fps, notes=(*plan.notes, note))
    return sized.of(modality)
