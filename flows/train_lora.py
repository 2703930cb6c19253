"""Flow train-lora."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.gpu_lease import gpu_lease
from flows.interrupt import stop_on_sigterm
from ltxcore.config.recipe import Recipe
from ltxcore.stages.contract import TRAIN
from tasks.stage import context, only_run, open_stage


@flow(name=TRAIN.name)
def train_lora(
    workspace: str = "workspace",
    recipe: Recipe = Recipe(),
    snapshot: str = "latest",
    pipeline_run: str = "",
    pause_at: int = 0,
) -> State[None] | None:
    """Train the adapter on committed latents and text features, from the newest checkpoint on.

    A cancellation writes a checkpoint first; the next run of the same request continues there.

    Args:
        workspace: directory of the store, the runs and the models.
        recipe: what to train and how.
        snapshot: id of a snapshot of probe-media, or `latest`.
        pipeline_run: the run of the pipeline that this belongs to. Empty: one of its own.
        pause_at: stop after this step, with a checkpoint, so that its samples can be rendered. 0: train to
            the end; the samples of the steps are then rendered by render-validation.
    """
    run = open_stage(TRAIN, context(workspace, recipe, snapshot=snapshot), pipeline_run)
    if run is None:
        return None
    with only_run(run) as needed:
        if not needed:
            return None
        with gpu_lease():
            # torch comes with this import: after the lease, so that a waiting stage stays small.
            from tasks.train_lora import train_all

            with stop_on_sigterm() as should_stop:
                paused = train_all(run, should_stop, pause_at)
    return None if paused is None else Completed(message=f"Paused after step {paused} for samples")
