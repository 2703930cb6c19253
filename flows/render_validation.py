"""Flow render-validation."""

from __future__ import annotations

from prefect import flow

from flows.gpu_lease import gpu_lease
from ltxcore.config.recipe import Recipe
from ltxcore.stages.contract import RENDER
from tasks.render_validation import render_all
from tasks.stage import context, open_stage


@flow(name=RENDER.name)
def render_validation(
    workspace: str = "workspace",
    recipe: Recipe = Recipe(),
    snapshot: str = "latest",
    pipeline_run: str = "",
) -> None:
    """Render the prompts with the base and with the LoRA, side by side in a gallery.

    Args:
        workspace: directory of the store, the runs and the models.
        recipe: what was trained, and what to render.
        snapshot: id of a snapshot of probe-media, or `latest`.
        pipeline_run: the run of the pipeline that this belongs to. Empty: one of its own.
    """
    run = open_stage(RENDER, context(workspace, recipe, snapshot=snapshot), pipeline_run)
    if run is not None:
        with gpu_lease():
            render_all(run)
