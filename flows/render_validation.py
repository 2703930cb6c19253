"""Flow render-validation."""

from __future__ import annotations

from prefect import flow

from flows.gpu_lease import gpu_lease
from ltxcore.config.recipe import Recipe
from ltxcore.stages.contract import RENDER
from tasks.render_validation import render_all
from tasks.stage import context, only_run, open_stage


@flow(name=RENDER.name)
def render_validation(
    workspace: str = "workspace",
    recipe: Recipe = Recipe(),
    snapshot: str = "latest",
    pipeline_run: str = "",
    step: int = 0,
) -> None:
    """Render the prompts with the base and with the LoRA, side by side in a gallery.

    Args:
        workspace: directory of the store, the runs and the models.
        recipe: what was trained, and what to render.
        snapshot: id of a snapshot of probe-media, or `latest`.
        pipeline_run: the run of the pipeline that this belongs to. Empty: one of its own.
        step: render the LoRA that a training has left after this step. 0: that of the finished training.
    """
    run = open_stage(RENDER, context(workspace, recipe, snapshot=snapshot, step=step), pipeline_run)
    if run is None:
        return
    with only_run(run) as needed:
        if needed:
            with gpu_lease():
                render_all(run)
