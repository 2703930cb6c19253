"""Tasks of the parent: what may be passed over, what a run is made of, and its report."""

from __future__ import annotations

import os
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from ltxcore.memory.measure import measure_peaks
from ltxcore.memory.plan import GIB
from ltxcore.stages.context import Context
from ltxcore.stages.contract import PROBE, STAGES, Stage
from ltxcore.stages.dataset_pages import write_report
from ltxcore.stages.held_out import check_datasets
from ltxcore.stages.memory_plans import plan_rows
from ltxcore.stages.run import find_result, note_up_to_date
from ltxcore.stages.setbacks import MemoryRetry, Setbacks
from ltxcore.stages.stamp import read_manifest, read_stamp, stage_directory
from ltxcore.stages.summary import quarantined, read_summary, stage_rows
from ltxcore.store.blobs import write_json
from tasks import artifacts


@task(name="check-configuration", cache_policy=NO_CACHE)
def begin_run(ctx: Context, run: Path) -> None:
    """Refuse a broken dataset file before any stage starts, and note what this run was asked for."""
    check_datasets(ctx.recipe.evaluation, ctx.datasets)
    request = {
        "datasets": str(ctx.datasets.source),
        "recipe": ctx.recipe.fingerprint_data(),
        "workspace": str(ctx.workspace.root),
    }
    write_json(run / "run.json", request)
    write_json(ctx.workspace.runs / "newest.json", {"run": run.name})


@task(name="up-to-date", task_run_name="is-{stage.name}-up-to-date", cache_policy=NO_CACHE)
def up_to_date(stage: Stage, ctx: Context, run: Path) -> bool:
    """Whether a stage's result is in place; found without starting a process or importing torch."""
    _, stamp = find_result(stage, ctx)
    if stamp is None:
        return False
    entry = note_up_to_date(stage, ctx, stamp, run)
    get_run_logger().info("%s is up to date: %s hits", stage.name, entry.counts.get("hits", 0))
    return True


def is_done(stage: Stage, ctx: Context) -> bool:
    """Whether a stage's result is in place, without a note of it in a run's folder."""
    return find_result(stage, ctx)[1] is not None


def memory_retry(stage: Stage, ctx: Context) -> MemoryRetry:
    """Says, after a stage has failed, whether to start it again with the next memory plan."""
    request, _ = find_result(stage, ctx)
    directory = stage_directory(ctx.workspace, stage, request)
    return MemoryRetry(Setbacks(directory, ctx.recipe.memory))


def snapshot_of(ctx: Context, run: Path) -> str:
    """The snapshot that this run's probe-media made or found.

    Raises:
        RuntimeError: probe-media has not finished in this run.
    """
    entry = read_manifest(run, PROBE)
    if entry is None:
        raise RuntimeError(f"{run} has no {PROBE.name}.json although that stage completed")
    return str(read_stamp(ctx.workspace, entry).outcome.facts["snapshot"])


@task(name="report", cache_policy=NO_CACHE)
def report_run(ctx: Context, run: Path) -> None:
    """The summary as a table, predicted beside measured memory, and the links to what was made."""
    rows = stage_rows(ctx.workspace, run)
    artifacts.table("summary", rows, "What each stage did")
    measured = {row["stage"]: int(max(row["peak GPU GiB"], row["peak GiB"]) * GIB) for row in rows}
    artifacts.table("memory", plan_rows(ctx, measured), "Predicted and measured peaks of memory")
    summary = read_summary(ctx.workspace, run)
    page, _ = write_report(ctx, quarantined={} if summary is None else quarantined(summary))
    artifacts.link("dataset-page", page, ctx.workspace.root, "The dataset with sound and token counts")
    parent = {"process": os.getpid(), "peak_rss_bytes": measure_peaks().rss_bytes}
    write_json(run / "parent.json", parent)
    for stage in STAGES:
        entry = read_manifest(run, stage)
        if entry is None:
            continue
        for file in read_stamp(ctx.workspace, entry).outcome.files:
            path = ctx.workspace.root / file.path
            if path.suffix == ".safetensors" or path.name == "index.html":
                key = path.stem.lower().replace("_", "-")
                artifacts.link(f"{stage.name}-{key}", path, ctx.workspace.root, f"{stage.name}: {path.name}")
