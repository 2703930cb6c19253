"""Opening a stage inside a Prefect flow run: its context, its name on the run, and what is done already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import Task, runtime
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging import get_run_logger

from ltxcore.config.recipe import Recipe
from ltxcore.memory.measure import measure_peaks
from ltxcore.memory.out_of_memory import is_out_of_memory
from ltxcore.stages.context import Context
from ltxcore.stages.contract import Stage
from ltxcore.stages.enforce import enforced
from ltxcore.stages.memory_plans import plan_row
from ltxcore.stages.run import StageRun, find_result, note_up_to_date
from ltxcore.store.workspace import LATEST, Workspace
from tasks import artifacts
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


@contextmanager
def within_budget(run: StageRun) -> Iterator[None]:
    """Run the work of a stage by its memory plan, and show what it took beside what was predicted.

    Raises:
        OverBudget, NoPlanLeft: there is no plan for it; nothing is loaded then.
        StageOutOfMemory: it ran out of memory; the next plan is on record.
    """
    with enforced(run) as plan:
        yield
    if plan is not None:
        peaks = measure_peaks()
        measured = peaks.vram_bytes if plan.on_device else peaks.rss_bytes
        row = plan_row(plan, measured)
        artifacts.table(f"memory-{run.stage.name}", [row], "Predicted and measured peak of memory")


def unless_out_of_memory(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether a failed batch is worth another try in this process: memory will not have grown."""
    error = state.result(raise_on_failure=False)
    return not (isinstance(error, BaseException) and is_out_of_memory(error))
