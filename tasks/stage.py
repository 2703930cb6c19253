"""Opening a stage inside a Prefect flow run: its context, its name on the run, and what is done already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
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
from ltxcore.stages.stamp import ManifestEntry
from ltxcore.store.lease import writing
from ltxcore.store.locks import exclusive, in_use
from ltxcore.store.workspace import LATEST, Workspace
from tasks import artifacts
from tasks.artifacts import ProgressArtifact


def context(
    workspace: str,
    recipe: Recipe,
    *,
    datasets: str = "datasets.yaml",
    snapshot: str = LATEST,
    step: int = 0,
) -> Context:
    """The context of a stage from a flow's parameters; relative paths count from the working directory."""
    return Context(Workspace(workspace), recipe, Path(datasets), snapshot, step)


def run_folder(ctx: Context, pipeline_run: str) -> Path:
    """The folder of the pipeline run that a stage belongs to; a stage on its own has one of its own."""
    run = ctx.workspace.run(pipeline_run or str(runtime.flow_run.id))
    # The samples of a step are a part of the run, and not its result.
    return run / f"step-{ctx.step:06d}" if ctx.step else run


def open_stage(stage: Stage, ctx: Context, pipeline_run: str) -> StageRun | None:
    """A stage that has work to do, or None where its result is in place, which is noted then."""
    run = run_folder(ctx, pipeline_run)
    request, stamp = find_result(stage, ctx)
    if stamp is not None:
        _say_up_to_date(note_up_to_date(stage, ctx, stamp, run))
        return None
    return StageRun(stage, ctx, request, run, ProgressArtifact(f"{stage.name}-progress", stage.title))


@contextmanager
def only_writer(run: StageRun, part: str) -> Iterator[bool]:
    """Be the one writer of a part of the store; False where another run has done all of it meanwhile."""
    with (
        in_use(run.ctx.workspace.run_lock(run.run)),
        writing(run.ctx.store, part, _purpose(run), on_wait=partial(_say_waiting, run)),
    ):
        yield _still_to_do(run)


@contextmanager
def only_run(run: StageRun) -> Iterator[bool]:
    """Be the one run of a request in this workspace; False where another has done it meanwhile."""
    lock = run.directory / "lock"
    with (
        in_use(run.ctx.workspace.run_lock(run.run)),
        exclusive(lock, _purpose(run), on_wait=partial(_say_waiting, run)),
    ):
        yield _still_to_do(run)


def _purpose(run: StageRun) -> str:
    return f"{run.stage.name} of {run.ctx.workspace.root}"


def _say_waiting(run: StageRun, holder: str) -> None:
    get_run_logger().info("Waiting for %s", holder)
    run.progress.begin(0, "", f"waiting for {holder}")


def _still_to_do(run: StageRun) -> bool:
    _, stamp = find_result(run.stage, run.ctx)
    if stamp is not None:
        _say_up_to_date(note_up_to_date(run.stage, run.ctx, stamp, run.run))
    return stamp is None


def _say_up_to_date(entry: ManifestEntry) -> None:
    get_run_logger().info("%s is up to date: %s hits", entry.stage, entry.counts.get("hits", 0))


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
        rows = [plan_row(plan, measured), *({"out of memory before": told} for told in run.setbacks)]
        artifacts.table(f"memory-{run.stage.name}", rows, "Predicted and measured peak of memory")


def unless_out_of_memory(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether a failed batch is worth another try in this process: memory will not have grown."""
    error = state.result(raise_on_failure=False)
    return not (isinstance(error, BaseException) and is_out_of_memory(error))
