"""Flow probe-media."""

from __future__ import annotations

from prefect import flow

from ltxcore.config.recipe import Recipe
from ltxcore.stages.contract import PROBE
from tasks.probe_media import probe_all
from tasks.stage import context, open_stage


@flow(name=PROBE.name)
def probe_media(
    workspace: str = "workspace",
    datasets: str = "datasets.yaml",
    recipe: Recipe = Recipe(),
    pipeline_run: str = "",
) -> None:
    """Give every file of the datasets a verdict and the good ones a decoding plan: a snapshot.

    Args:
        workspace: directory of the store, the runs and the models.
        datasets: the dataset file.
        recipe: not used here; the same form for every stage.
        pipeline_run: the run of the pipeline that this belongs to. Empty: one of its own.
    """
    run = open_stage(PROBE, context(workspace, recipe, datasets=datasets), pipeline_run)
    if run is not None:
        probe_all(run)
