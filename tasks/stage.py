"""Opens a stage inside a Prefect flow run: its context, its name on the run, and what is done already."""

from __future__ import annotations

import logging
from pathlib import Path

from prefect import runtime
from prefect.logging import get_run_logger

from ltxcore.config.overrides import Overrides
from ltxcore.execution import drawn_seed
from ltxcore.execution.execution import Execution
from ltxcore.execution.kept_job import keep_job
from ltxcore.execution.runner import open_execution
from ltxcore.jobs.checks.job_checks import check_stage
from ltxcore.pipeline.base.context import Context, context_here
from ltxcore.pipeline.base.contract import Stage
from ltxcore.store.workspace import LATEST, Workspace
from tasks.artifacts import ProgressArtifact
from tasks.process_end import tell_of_end


def context(
    workspace: str,
    recipe_file: str = "",
    *,
    pipeline_run: str = "",
    overrides: Overrides = Overrides(),
    datasets: str = "",
    snapshot: str = LATEST,
    step: int = 0,
) -> Context:
    """The context of a stage from a flow's parameters; relative paths count from the working directory.

    Recipe and dataset file are read once for a run and kept in its folder; `~` is the home directory.

    Raises:
        ConfigError: a file is not there or is wrong.
    """
    tell_of_end()
    place = Workspace(workspace)
    run = _folder(place, pipeline_run)
    job = keep_job(run, recipe_file, overrides, datasets)
    if job.datasets is None:
        return context_here(place, job.recipe, snapshot_id=snapshot, step=step)
    return context_here(place, job.recipe, job.datasets.file, snapshot, step, job.datasets.origin)


def _folder(workspace: Workspace, pipeline_run: str) -> Path:
    """The folder of the pipeline run that a stage belongs to; a stage on its own has one of its own."""
    return workspace.run(pipeline_run or str(runtime.flow_run.id))


def run_folder(ctx: Context, pipeline_run: str) -> Path:
    """The folder in which a stage notes what it did."""
    run = _folder(ctx.workspace, pipeline_run)
    # The samples of a step are a part of the run, and not its result.
    return run / f"step-{ctx.step:06d}" if ctx.step else run


def with_seeds(ctx: Context, run: Path) -> Context:
    """The context with the seeds of a run, drawn now if the recipe leaves them open, and logged."""
    drawn = drawn_seed.with_seeds(ctx, run)
    if drawn.recipe != ctx.recipe:
        get_run_logger().info(
            "seed -1: this run has training.seed %d and validation.validation_seed %d, kept in %s",
            drawn.recipe.training.seed,
            drawn.recipe.validation.validation_seed,
            run / drawn_seed.FILE,
        )
    return drawn


def open_stage(stage: Stage, ctx: Context, pipeline_run: str) -> Execution | None:
    """A stage that has work to do, or None where its result is in place, which is noted then."""
    # What the library says of its work (why a stage runs, by which plan, what is kept) is part of the run's
    # log. Prefect takes the library's logger along, and shows warnings of it only.
    logging.getLogger("ltxcore").setLevel(logging.INFO)
    run = run_folder(ctx, pipeline_run)
    # Of the pipeline's run, also for the samples of a step: they belong to the same training.
    ctx = with_seeds(ctx, _folder(ctx.workspace, pipeline_run))
    listener = ProgressArtifact(f"{stage.name}-progress", stage.title)
    return open_execution(stage, ctx, run, check=check_stage, listener=listener)
