"""`ltx2 report`: the page of the dataset, and what has changed between two snapshots."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from flows.cli.options import (
    STORE_FAULTS,
    AgainOption,
    DatasetsAgainOption,
    JsonOption,
    NoWorkspace,
    WorkspaceOption,
    at_work,
    context_again,
    refuse,
    show_json,
)
from flows.tables import table as empty_table
from ltxcore.config.errors import ConfigError
from ltxcore.jobs.report.snapshot_changes import SnapshotChanges
from ltxcore.jobs.report.write_pages import write_comparison, write_report
from ltxcore.pipeline.data.tables import counted
from ltxcore.store.workspace import LATEST

console = Console()
ROWS = 40


def report(
    workspace: WorkspaceOption = Path("workspace"),
    datasets: DatasetsAgainOption = None,
    recipe: AgainOption = None,
    snapshot: Annotated[str, typer.Option(help="Id of a snapshot, or `latest`.")] = LATEST,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(help="Two snapshots, to show what has changed from the first to the second."),
    ] = None,
    browse: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the dataset report of a snapshot and print its path."""
    before, chosen = compare or (None, snapshot)
    try:
        ctx = context_again(workspace, recipe, datasets, chosen)
        if before is None:
            with at_work("writing the page"):
                page, found = write_report(ctx)
            if as_json:
                show_json({"page": str(page), **found.facts()})
                return
            for label, value in found.facts().items():
                console.print(f"{label:<16} {value}", highlight=False)
        else:
            page, changes = write_comparison(ctx, before)
            if as_json:
                show_json({"page": str(page), **asdict(changes)})
                return
            _print(changes)
    except (ConfigError, NoWorkspace, *STORE_FAULTS) as error:
        raise refuse(error) from None
    console.print(str(page), markup=False, highlight=False, soft_wrap=True)
    if browse:
        typer.launch(page.as_uri())


def _print(changes: SnapshotChanges) -> None:
    console.print(f"[bold]{changes.before} -> {changes.after}[/]", highlight=False)
    if changes.changes:
        table = empty_table(dict.fromkeys(("clip", "change", "details"), "words"))
        for change in changes.changes[:ROWS]:
            table.add_row(Text(change.clip), change.what, Text("; ".join(change.details)))
        console.print(table)
    if len(changes.changes) > ROWS:
        console.print(f"and {len(changes.changes) - ROWS} more; the page has them")
    for name, before, after in changes.buckets:
        console.print(f"bucket {name}: {before} -> {counted(after, 'clip')}", highlight=False)
    console.print(f"{len(changes.changes)} changed, {changes.unchanged} unchanged")
