"""Opening a stage inside a Prefect flow run: its context, its name on the run, and what is done already."""

from __future__ import annotations

from pathlib import Path

from prefect import runtime
from prefect.logging import get_run_logger

from ltxcore.config.recipe import Recipe
from ltxcore.stages.context import Context
from ltxcore.stages.contract import Stage
from ltxcore.stages.run import StageRun, find_result, note_up_to_date
from ltxcore.store.workspace import LATEST, Workspace
from tasks.artifacts import ProgressArtifact


def context(
    workspace: str, recipe: Recipe, *, datasets: str = "datasets.yaml", snapshot: str = LATEST
) -> Context:
    """The context of a stage from a flow's parameters; relative paths count from the working directory."""
    return Context(Workspace(workspace), recipe, Path(datasets), snapshot)


def run_folder(ctx: Context, pipeline_run: str) -> Path:
    """The folder of the pipeline run that a stage belongs to; a stage on its own has one of its own."""
    return ctx.workspace.run(pipeline_run or str(runtime.flow_run.id))


def open_stage(stage: Stage, ctx: Context, pipeline_run: str) -> StageRun | None:
    """A stage that has work to do, or None where its result is in place, which is noted then."""
    run = run_folder(ctx, pipeline_run)
    request, stamp = find_result(stage, ctx)
    if stamp is not None:
        entry = note_up_to_date(stage, ctx, stamp, run)
        get_run_logger().info("%s is up to date: %s hits", stage.name, entry.counts.get("hits", 0))
        return None
    return StageRun(stage, ctx, request, run, ProgressArtifact(f"{stage.name}-progress", stage.title))
