"""`ltx2 presets`: recipes to start from, one a card and one a goal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows.cli.options import JsonOption, refuse, show_json
from flows.tables import table as empty_table
from ltxcore.config.base import read_document
from ltxcore.config.errors import nearest
from ltxcore.config.recipe_document import presets as all_presets

console = Console()


class UnknownPreset(LookupError):
    """No preset has this name."""


def presets(
    name: Annotated[str | None, typer.Argument(help="The preset to print. Default: list all.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the presets that a recipe can extend, or print one with the reasons for its numbers."""
    known = all_presets()
    if name is None and as_json:
        kinds = {preset: file.parent.name.removesuffix("s") for preset, file in known.items()}
        show_json([{"name": p, "kind": kinds[p], "for": subject(file)} for p, file in known.items()])
    elif name is None:
        for kind in ("cards", "goals"):
            table = empty_table({kind.removesuffix("s"): "name", "for": "words"})
            for preset, file in known.items():
                if file.parent.name == kind:
                    table.add_row(preset, subject(file))
            console.print(table)
        console.print("A recipe takes them by `extends: [GOAL, CARD]`; `ltx2 presets NAME` prints one.")
    elif name in known and as_json:
        show_json(read_document(known[name])[0])
    elif name in known:
        console.print(known[name].read_text().rstrip(), markup=False, highlight=False, soft_wrap=True)
    else:
        raise refuse(UnknownPreset(f"there is no preset {name!r}; {nearest(name, known)}"))


def subject(file: Path) -> str:
    """The first line of a preset's comment."""
    return file.read_text().splitlines()[0].removeprefix("# ").rstrip(".")
