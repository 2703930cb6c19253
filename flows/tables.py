"""Tables and lines for the terminal: words are folded where room is short, figures are always whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

NARROW: Final = 80
"""Columns of the narrowest terminal, and of a pipe, in which every figure has to be whole."""

Content = Literal["name", "words", "figures"]


def table(columns: Mapping[str, Content], title: str | None = None) -> Table:
    """An empty table; a name stays on one line as long as there is room, words and names are never cut.

    Args:
        columns: heading -> what is below it. Figures stand on the right and are never broken or cut, so
            that headings and figures of a table have to fit into `NARROW` columns beside some words.
    """
    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))
    for heading, content in columns.items():
        if content == "figures":
            made.add_column(heading, justify="right", no_wrap=True)
        else:
            made.add_column(heading, overflow="fold", no_wrap=content == "name")
    return made


def say(console: Console, line: str | Text) -> None:
    """Print a line: folded between words in a terminal, and whole in a pipe, where a program reads."""
    console.print(line, markup=False, highlight=False, soft_wrap=not console.is_terminal)
