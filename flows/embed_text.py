"""Flow embed-text."""

from __future__ import annotations

from prefect import flow

from flows.gpu_lease import gpu_lease
from ltxcore.config.recipe import Recipe
from ltxcore.stages.contract import TEXT
from tasks.embed_text import embed_all
from tasks.stage import context, open_stage


@flow(name=TEXT.name)
def embed_text(
    workspace: str = "workspace",
    recipe: Recipe = Recipe(),
    snapshot: str = "latest",
    pipeline_run: str = "",
) -> None:
    """Put captions and prompts through Gemma and the feature extractor, into the store.

    Args:
        workspace: directory of the store, the runs and the models.
        recipe: which model, and the prompts of validation.
        snapshot: id of a snapshot of probe-media, or `latest`.
        pipeline_run: the run of the pipeline that this belongs to. Empty: one of its own.
    """
    run = open_stage(TEXT, context(workspace, recipe, snapshot=snapshot), pipeline_run)
    if run is not None:
        with gpu_lease():
            embed_all(run)
