"""Flow split-audio."""

from __future__ import annotations

from prefect import flow

from ltxcore.config.recipe import Recipe
from ltxcore.stages.contract import AUDIO
from tasks.split_audio import split_all
from tasks.stage import context, open_stage


@flow(name=AUDIO.name)
def split_audio(
    workspace: str = "workspace",
    recipe: Recipe = Recipe(),
    snapshot: str = "latest",
    pipeline_run: str = "",
) -> None:
    """Cut the clips' sound at their frames, as 16 kHz stereo.

    Args:
        workspace: directory of the store, the runs and the models.
        recipe: not used here; the same form for every stage.
        snapshot: id of a snapshot of probe-media, or `latest`.
        pipeline_run: the run of the pipeline that this belongs to. Empty: one of its own.
    """
    run = open_stage(AUDIO, context(workspace, recipe, snapshot=snapshot), pipeline_run)
    if run is not None:
        split_all(run)
