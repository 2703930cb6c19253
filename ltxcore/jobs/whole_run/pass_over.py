"""A run that has nothing to do, found without a model, a server or another process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ltxcore.config.seeds import OPEN
from ltxcore.execution.execution import find_result, note_up_to_date
from ltxcore.jobs.checks.job_checks import check_clips
from ltxcore.models.errors import ModelError
from ltxcore.models.files.locate_weights import find_adapter
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import PROBE, Stage, asked_stages
from ltxcore.pipeline.base.stamp import ManifestEntry, Stamp
from ltxcore.stages.render_validation.standalone_models import models_are_here


def pass_over(ctx: Context, run: Path) -> tuple[Context, list[ManifestEntry]] | None:
    """Note in a run's folder that every stage is up to date; None, with nothing noted, where one is not.

    Nor is a run passed over that may have to draw seeds, fetch a model or publish.

    Returns:
        The context with the snapshot of the clips, and the entries of all stages.

    Raises:
        ConfigError, BucketTooSmall, UnsettledBatchSize: what the clips make impossible.
    """
    seeds = (ctx.recipe.training.seed, ctx.recipe.validation.validation_seed)
    if OPEN in seeds or ctx.recipe.hub.push_to_hub or not _models_are_here(ctx):
        return None
    found: list[tuple[Stage, Context, Stamp]] = []
    for stage in asked_stages(ctx.recipe):
        _, stamp = find_result(stage, ctx)
        if stamp is None:
            return None
        found.append((stage, ctx, stamp))
        if stage is PROBE:
            ctx = replace(ctx, snapshot_id=str(stamp.outcome.facts["snapshot"]))
            check_clips(ctx)
    return ctx, [note_up_to_date(stage, of_stage, stamp, run) for stage, of_stage, stamp in found]


def _models_are_here(ctx: Context) -> bool:
    try:
        for adapter in ctx.recipe.validation.adapter_paths:
            find_adapter(adapter, fetch=False)
        if not models_are_here(ctx.recipe):
            return False
        _ = ctx.source.root
        if ctx.recipe.crepa.crepa_enabled:
            _ = ctx.teacher.root
    except ModelError:
        return False
    return True
