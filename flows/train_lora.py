"""Flow train-lora."""

from __future__ import annotations

from prefect import flow
from tasks.train_lora import train_all

from flows.gpu_lease import gpu_lease
from ltxcore.config.recipe import Recipe
from ltxcore.stages.contract import TRAIN
from tasks.stage import context, open_stage


@flow(name=TRAIN.name)
def train_lora(
    workspace: str = "workspace",
    recipe: Recipe = Recipe(),
    snapshot: str = "latest",
    pipeline_run: str = "",
) -> None:
    """Train the adapter on committed latents and text features.

    Args:
        workspace: directory of the store, the runs and the models.
        recipe: what to train and how.
        snapshot: id of a snapshot of probe-media, or `latest`.
        pipeline_run: the run of the pipeline that this belongs to. Empty: one of its own.
    """
    run = open_stage(TRAIN, context(workspace, recipe, snapshot=snapshot), pipeline_run)
    if run is not None:
        with gpu_lease():
            train_all(run)
