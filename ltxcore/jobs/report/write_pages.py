"""Writing the report of a snapshot where it belongs, and of a pair of snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ltxcore.jobs.report.dataset_report import PAGE, DatasetReport, gather, report_directory
from ltxcore.jobs.report.page import write_page
from ltxcore.jobs.report.snapshot_changes import SnapshotChanges, compare_snapshots
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import PROBE
from ltxcore.pipeline.base.stamp import read_manifest, read_stamp


def write_report(
    ctx: Context,
    directory: Path | None = None,
    quarantined: Mapping[str, str] | None = None,
    run: str = "",
) -> tuple[Path, DatasetReport]:
    """Write the page of the context's snapshot, anew each time: later stages have more to tell.

    Args:
        directory: where to; None: beside the result of the stage that made the snapshot.
        quarantined: clip -> why.
        run: the name of the run that it is of; empty: the newest one, if it has this snapshot.
    """
    report = gather(ctx, quarantined, run=run or _newest_run_of(ctx))
    return write_page((directory or report_directory(ctx)) / PAGE, report), report


def write_comparison(ctx: Context, before: str) -> tuple[Path, SnapshotChanges]:
    """Write the page of the context's snapshot with what has changed since the snapshot `before`.

    Raises:
        UnknownSnapshot: there is none of that id.
    """
    changes = compare_snapshots(ctx.workspace.load_snapshot(before), ctx.snapshot)
    page = report_directory(ctx) / f"dataset-report-since-{changes.before}.html"
    return write_page(page, gather(ctx, changes=changes)), changes


def _newest_run_of(ctx: Context) -> str:
    """The workspace's newest run, if the context's snapshot is what its probe-media gave."""
    newest = ctx.workspace.newest_run
    entry = None if newest is None else read_manifest(ctx.workspace.run(newest), PROBE)
    if newest is None or entry is None or not (ctx.workspace.root / entry.stamp).exists():
        return ""
    snapshot = read_stamp(ctx.workspace, entry).outcome.facts["snapshot"]
    return newest if snapshot == ctx.snapshot.id else ""


def of_snapshot(ctx: Context, snapshot_id: str) -> Context:
    """The same context for another snapshot."""
    return replace(ctx, snapshot_id=snapshot_id)
