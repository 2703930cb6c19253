"""`ltx2 keys`: what may be written into a recipe and a dataset file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from ltxcore.config.dataset_kinds import KINDS
from ltxcore.config.errors import nearest
from ltxcore.config.key_reference import Key, dataset_keys, recipe_keys

INTRODUCTION = """# Keys

Every key of a recipe and of a dataset file, as `ltx2 keys --markdown` writes them; `ltx2 keys WORD` shows
those with a word in their name. `[]` marks the items of a list, `[prefix]` those of that type, `NAME` a name
of your own. A key without a default must be given.
"""


def keys(
    word: Annotated[
        str, typer.Argument(help="Only keys with this in their name, e.g. `lr_` or `video.`.")
    ] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="Write docs/keys.md to the terminal.")] = False,
) -> None:
    """Say what may be written into a recipe and a dataset file: every key, its type, default and meaning."""
    recipe = [key for key in recipe_keys() if word in key.path]
    datasets = {key: kinds for key, kinds in dataset_keys().items() if word in key.path}
    if not recipe and not datasets:
        known = sorted({key.path.rpartition(".")[2] for key in (*recipe_keys(), *dataset_keys())})
        typer.echo(f"no key has {word!r} in its name; {nearest(word, known)}", err=True)
        raise typer.Exit(2)
    if markdown:
        typer.echo(_markdown(recipe, datasets), nl=False)
        return
    console = Console()
    if recipe:
        console.print(_table("Recipe", ("key", "type", "default", "meaning"), map(_row, recipe)))
    if datasets:
        rows = ((key.path, _told(kinds), *_row(key)[1:]) for key, kinds in datasets.items())
        console.print(_table("Dataset file", ("key", "datasets", "type", "default", "meaning"), rows))


def _row(key: Key) -> tuple[str, str, str, str]:
    return key.path, key.kind, key.default, key.meaning


def _told(kinds: tuple[str, ...]) -> str:
    return "all" if len(kinds) == len(KINDS) else ", ".join(kinds)


def _table(title: str, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))
    for number, name in enumerate(header):
        table.add_column(name, overflow="fold", ratio=3 if name == "meaning" else None, no_wrap=number == 0)
    for row in rows:
        table.add_row(*(cell.replace("[", r"\[") for cell in row))
    return table


def _markdown(recipe: list[Key], datasets: dict[Key, tuple[str, ...]]) -> str:
    lines = [INTRODUCTION, "## Recipe"]
    section = ""
    for key in recipe:
        if key.path.partition(".")[0] != section:
            section = key.path.partition(".")[0]
            lines += ["", f"### {section}", "", "| key | type | default | meaning |", "|---|---|---|---|"]
        name = key.path.partition(".")[2]
        lines.append(_line(f"`{name}`", key.kind, _code(key.default), key.meaning))
    lines += [
        "",
        "## Dataset file",
        "",
        "| key | datasets | type | default | meaning |",
        "|---|---|---|---|---|",
    ]
    for key, kinds in datasets.items():
        lines.append(_line(f"`{key.path}`", _told(kinds), key.kind, _code(key.default), key.meaning))
    return "\n".join(lines) + "\n"


def _code(default: str) -> str:
    return f"`{default}`" if default else ""


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
