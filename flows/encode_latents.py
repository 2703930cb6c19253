"""Flow encode-latents."""

from __future__ import annotations

from prefect import flow

from flows.gpu_lease import gpu_lease
from ltxcore.config.recipe import Recipe
from ltxcore.stages.contract import LATENTS
from tasks.encode_latents import encode_all
from tasks.stage import context, open_stage


@flow(name=LATENTS.name)
def encode_latents(
    workspace: str = "workspace",
    recipe: Recipe = Recipe(),
    snapshot: str = "latest",
    pipeline_run: str = "",
) -> None:
    """Put the frames and the sound of every sample through both VAEs, into the store.

    Args:
        workspace: directory of the store, the runs and the models.
        recipe: which model, and how it is encoded.
        snapshot: id of a snapshot of probe-media, or `latest`.
        pipeline_run: the run of the pipeline that this belongs to. Empty: one of its own.
    """
    run = open_stage(LATENTS, context(workspace, recipe, snapshot=snapshot), pipeline_run)
    if run is not None:
        with gpu_lease():
            encode_all(run)
