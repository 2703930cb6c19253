"""Flow embed-frames."""

from __future__ import annotations

from prefect import flow

from flows.gpu_lease import gpu_lease
from ltxcore.config.recipe import Recipe
from ltxcore.stages.contract import FRAMES
from ltxcore.stages.crepa_checks import require_enabled
from tasks.embed_frames import embed_all
from tasks.model import prepare_crepa
from tasks.stage import context, open_stage


@flow(name=FRAMES.name)
def embed_frames(
    workspace: str = "workspace",
    recipe: Recipe = Recipe(),
    snapshot: str = "latest",
    pipeline_run: str = "",
) -> None:
    """Put the frames of every sample through CREPA's teacher, into the store. For recipes with CREPA alone.

    Args:
        workspace: directory of the store, the runs and the models.
        recipe: which teacher, and at which image size.
        snapshot: id of a snapshot of probe-media, or `latest`.
        pipeline_run: the run of the pipeline that this belongs to. Empty: one of its own.
    """
    ctx = context(workspace, recipe, snapshot=snapshot)
    require_enabled(recipe)
    prepare_crepa(ctx)
    run = open_stage(FRAMES, ctx, pipeline_run)
    if run is not None:
        with gpu_lease():
            embed_all(run)
