"""`ltx2 buckets`: a few sizes and lengths that waste least of the clips, from the probe alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.cli_options import (
    STORE_FAULTS,
    DatasetsOption,
    RecipeOption,
    WorkspaceOption,
    read_recipe,
    refuse,
)
from ltxcore.config.errors import ConfigError
from ltxcore.stages.bucket_advice import BucketAdvice, NothingProbed, advice_rows, advise, paste_line
from ltxcore.stages.context import Context
from ltxcore.stages.probe_media import Memo, find_files
from ltxcore.store.workspace import Workspace

console = Console()


def buckets(
    workspace: WorkspaceOption = Path("workspace"),
    datasets: DatasetsOption = Path("datasets.yaml"),
    recipe: RecipeOption = None,
    count: Annotated[
        int | None, typer.Option(min=1, max=64, help="How many. Default: as long as one more saves enough.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a sample. Default: of the largest bucket now.")
    ] = None,
) -> None:
    """Propose buckets WxHxF that waste the fewest pixels and frames, beside what is configured."""
    try:
        ctx = Context(Workspace(workspace), read_recipe(recipe), datasets)
        files, memo = find_files(ctx), Memo(ctx)
        unknown = memo.unknown(files)
        advice = advise(ctx, memo, files, count, max_tokens)
    except (ConfigError, NothingProbed, ValueError, *STORE_FAULTS) as error:
        raise refuse(error) from None
    if unknown:
        console.print(
            f"[yellow]{len(unknown)} of {len(files)} files have not been looked at;[/] "
            "`ltx2 stage probe-media` does that"
        )
    for found in advice:
        _print(found)


def _print(advice: BucketAdvice) -> None:
    console.print(
        f"[bold]{escape(advice.dataset)}[/]: {advice.clips} clips, "
        f"at most {advice.max_tokens} tokens a sample",
        highlight=False,
    )
    rows = advice_rows(advice)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in rows[0]:
        table.add_column(heading, justify="left" if heading in ("plan", "sizes") else "right")
    for row in rows:
        style = "bold" if row["plan"] in ("as configured", "proposed") else None
        table.add_row(*(str(value) for value in row.values()), style=style)
    console.print(table)
    console.print(
        f"To have these and no others, write into the dataset [bold]{escape(advice.dataset)}[/]:",
        highlight=False,
    )
    # As it is to be copied: on one line, however long.
    console.print(f"  {paste_line(advice)}", soft_wrap=True, markup=False, highlight=False)
