"""`ltx2 buckets`: a few sizes and lengths that waste least of the clips, from the probe alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

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
from ltxcore.jobs.report.bucket_advice import BucketAdvice, NothingProbed, advice_rows, advise, paste_line
from ltxcore.stages.probe_media.media_files import find_files
from ltxcore.stages.probe_media.memo import Memo

console = Console()


def buckets(
    workspace: WorkspaceOption = Path("workspace"),
    datasets: DatasetsAgainOption = None,
    recipe: AgainOption = None,
    count: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Number of buckets. Default: more, as long as each saves enough."),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Most latent tokens of a sample. Default: those of the largest configured bucket."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Propose buckets WxHxF that waste the fewest pixels and frames, next to the configured ones."""
    try:
        ctx = context_again(workspace, recipe, datasets)
        files, memo = find_files(ctx), Memo(ctx)
        unknown = memo.unknown(files)
        with at_work("trying buckets"):
            advice = advise(ctx, memo, files, count, max_tokens)
    except (ConfigError, NothingProbed, NoWorkspace, ValueError, *STORE_FAULTS) as error:
        raise refuse(error) from None
    if as_json:
        show_json([_as_json(found) for found in advice])
        return
    if unknown:
        console.print(
            f"[yellow]{len(unknown)} of {len(files)} files have not been looked at;[/] "
            "`ltx2 stage probe-media` does that"
        )
    for found in advice:
        _print(found)


def _as_json(advice: BucketAdvice) -> dict[str, Any]:
    return {
        "dataset": advice.dataset,
        "clips": advice.clips,
        "taken": advice.taken,
        "max_tokens": advice.max_tokens,
        "plans": advice_rows(advice),
        "proposed": None if advice.chosen is None else paste_line(advice.chosen),
        "why": advice.trade,
    }


def _print(advice: BucketAdvice) -> None:
    console.print(
        f"[bold]{escape(advice.dataset)}[/]: {advice.about}, at most {advice.max_tokens} tokens a sample",
        highlight=False,
    )
    rows = advice_rows(advice)
    # Two words of a heading stand above each other, so that the sizes have room.
    table = empty_table(
        {name.replace(" ", "\n"): "words" if name in ("plan", "sizes") else "figures" for name in rows[0]}
    )
    for row in rows:
        style = "bold" if row["plan"] in ("as configured", "proposed", "asked for") else None
        table.add_row(*(str(value) for value in row.values()), style=style)
    console.print(table)
    if advice.chosen is None:
        console.print(advice.trade, highlight=False)
        return
    name = "asked for" if advice.asked else "proposed"
    console.print(f"{name}, {advice.trade}", highlight=False)
    console.print(
        f"To use exactly the buckets {name}, write into [bold]{escape(advice.dataset)}[/]:",
        highlight=False,
    )
    # As it is to be copied: on one line, however long.
    console.print(f"  {paste_line(advice.chosen)}", soft_wrap=True, markup=False, highlight=False)
