"""`ltx2 import-simpletuner`: a SimpleTuner user's two files, and a line for every key in them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from flows.cli.options import JsonOption, refuse, show_json
from ltxcore.config.errors import ConfigError
from ltxcore.config.import_simpletuner import Import
from ltxcore.config.simpletuner.translation import Translation, Verdict

console = Console()
COLOURS: dict[Verdict, str] = {
    "taken": "green",
    "renamed": "green",
    "rounded": "yellow",
    "added": "yellow",
    "moot": "dim",
    "not yet": "yellow",
    "refused": "red",
}


def import_simpletuner(
    config: Annotated[Path, typer.Argument(help="config.json")],
    datasets: Annotated[Path, typer.Argument(help="multidatabackend.json")],
    output: Annotated[Path, typer.Option(help="Where recipe.yaml and datasets.yaml are written.")] = Path(),
    strict: Annotated[bool, typer.Option(help="Refuse keys whose feature is not supported yet.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write datasets.yaml and recipe.yaml from SimpleTuner's files, with a line for every key."""
    try:
        found = Import.read(config, datasets)
        try:
            written, missing = found.write(output, strict)
        finally:
            for translation in () if as_json else (found.config, found.datasets):
                _tell(translation)
    except ConfigError as error:
        raise refuse(error) from None
    if as_json:
        keys = [
            {"file": str(translation.source), "key": line.key, "verdict": line.verdict, "why": line.message}
            for translation in (found.config, found.datasets)
            for line in translation.lines
        ]
        show_json({"written": list(map(str, written)), "missing": list(missing), "keys": keys})
        return
    for remark in missing:
        console.print(f"[yellow]missing[/]  {escape(remark)}", highlight=False, soft_wrap=True)
    console.print(f"written: {', '.join(map(str, written))}", markup=False, soft_wrap=True)


def _tell(translation: Translation) -> None:
    console.print(f"[bold]{escape(str(translation.source))}[/]", highlight=False, soft_wrap=True)
    for line in translation.lines:
        row = Text.assemble("  ", (f"{line.verdict:<8}", COLOURS[line.verdict]), f" {line.key}")
        console.print(Text.assemble(row, f": {line.message}" if line.message else ""), soft_wrap=True)
