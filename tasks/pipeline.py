"""Tasks of the parent: which stages are up to date, the kept job of a run, and its report."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from ltxcore.execution.execution import find_result, note_up_to_date, passed_over
from ltxcore.jobs import pipeline
from ltxcore.jobs.whole_run.ending import Table, end
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import Stage
from ltxcore.pipeline.base.stamp import stage_directory
from ltxcore.pipeline.plan.out_of_memory_record import MemoryRetry, OutOfMemoryRecord
from tasks import artifacts


@task(name="check-configuration", cache_policy=NO_CACHE)
def begin_run(ctx: Context, run: Path) -> None:
    """Refuse a broken dataset file before any stage starts, and note what this run was asked for."""
    if ctx.decided:
        get_run_logger().info(ctx.decided)
    pipeline.begin_run(ctx, run)


@task(name="up-to-date", task_run_name="is-{stage.name}-up-to-date", cache_policy=NO_CACHE)
def up_to_date(stage: Stage, ctx: Context, run: Path) -> bool:
    """Whether a stage's result is in place; found without starting a process or importing torch."""
    _, stamp = find_result(stage, ctx)
    if stamp is None:
        return False
    entry = note_up_to_date(stage, ctx, stamp, run)
    get_run_logger().info("%s", passed_over(entry))
    return True


def memory_retry(stage: Stage, ctx: Context) -> MemoryRetry:
    """Says, after a stage has failed, whether to start it again with the next memory plan."""
    request, _ = find_result(stage, ctx)
    directory = stage_directory(ctx.workspace, stage, request)
    return MemoryRetry(OutOfMemoryRecord(directory, ctx.recipe.memory))


@task(name="report", cache_policy=NO_CACHE)
def report_run(ctx: Context, run: Path) -> None:
    """The summary as a table, predicted beside measured memory, and the links to what was made."""
    for shown in end(ctx, run):
        if isinstance(shown, Table):
            artifacts.table(shown.key, shown.rows, shown.description)
        else:
            artifacts.link(shown.key, shown.path, ctx.workspace.root, shown.description)
