"""Commands that are imported when they are called, so that `ltx2 --help` costs neither pydantic nor torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


@dataclass(frozen=True)
class Entry:
    """A command of the table: where it is, and its line in `ltx2 --help`."""

    name: str
    function: str
    """`module:function`, whose docstring is the command's help, or `module:app` of a group of commands."""
    summary: str
    panel: str


class LazyCommand(TyperCommand):
    """A command's name and summary; the command itself comes with its first call."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry.name, help=entry.summary, rich_help_panel=entry.panel)
        self._entry = entry

    def load(self) -> Any:
        """The real command, or group of commands: its module is imported here."""
        module, _, name = self._entry.function.partition(":")
        found = getattr(import_module(module), name)
        if isinstance(found, typer.Typer):
            return typer.main.get_command(found)
        single = typer.Typer(add_completion=False, rich_markup_mode="rich")
        single.command(name=self._entry.name)(found)
        return typer.main.get_command(single)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """The real command's context, so that all that follows is its own: options, help and work."""
        return self.load().make_context(info_name, args, parent=parent, **extra)


def group_of(entries: Sequence[Entry]) -> type[TyperGroup]:
    """A class of groups that has these commands; give it to `typer.Typer(cls=…)`."""

    class LazyGroup(TyperGroup):
        def __init__(self, **settings: Any) -> None:
            settings["commands"] = [LazyCommand(entry) for entry in entries]
            super().__init__(**settings)

    return LazyGroup
