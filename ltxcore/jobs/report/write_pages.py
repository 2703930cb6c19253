"""Writing the report of a snapshot where it belongs, and of a pair of snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ltxcore.jobs.report.dataset_report import PAGE, DatasetReport, gather, report_directory
from ltxcore.jobs.report.page import write_page
from ltxcore.jobs.report.snapshot_changes import SnapshotChanges, compare_snapshots
from ltxcore.pipeline.base.context import Context


def write_report(
    ctx: Context, directory: Path | None = None, quarantined: Mapping[str, str] | None = None
) -> tuple[Path, DatasetReport]:
    """Write the page of the context's snapshot, anew each time: later stages have more to tell."""
    report = gather(ctx, quarantined)
    return write_page((directory or report_directory(ctx)) / PAGE, report), report


def write_comparison(ctx: Context, before: str) -> tuple[Path, SnapshotChanges]:
    """Write the page of the context's snapshot with what has changed since the snapshot `before`.

    Raises:
        UnknownSnapshot: there is none of that id.
    """
    changes = compare_snapshots(ctx.workspace.load_snapshot(before), ctx.snapshot)
    page = report_directory(ctx) / f"dataset-report-since-{changes.before}.html"
    return write_page(page, gather(ctx, changes=changes)), changes


def of_snapshot(ctx: Context, snapshot_id: str) -> Context:
    """The same context for another snapshot."""
    return replace(ctx, snapshot_id=snapshot_id)
