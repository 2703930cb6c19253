"""`ltx2 keys`: what may be written into a recipe and a dataset file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from flows.cli.options import JsonOption, show_json
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
    as_json: JsonOption = False,
) -> None:
    """List every key of a recipe and a dataset file, with its type, default and meaning."""
    recipe = [key for key in recipe_keys() if word in key.path]
    datasets = {key: kinds for key, kinds in dataset_keys().items() if word in key.path}
    if not recipe and not datasets:
        known = sorted({key.path.rpartition(".")[2] for key in (*recipe_keys(), *dataset_keys())})
        message = f"no key has {word!r} in its name; {nearest(word, known)}; `ltx2 keys` shows all"
        typer.echo(message, err=True)
        raise typer.Exit(2)
    if as_json:
        show_json(
            {
                "recipe": [asdict(key) for key in recipe],
                "datasets": [{**asdict(key), "of": kinds} for key, kinds in datasets.items()],
            }
        )
        return
    if markdown:
        typer.echo(_markdown(recipe, datasets), nl=False)
        return
    console = Console()
    if recipe:
        _print(console, "Recipe", ((key, "") for key in recipe))
    if datasets:
        _print(console, "Dataset file", ((key, _kinds_listed(kinds)) for key, kinds in datasets.items()))


def _kinds_listed(kinds: tuple[str, ...]) -> str:
    return "all" if len(kinds) == len(KINDS) else ", ".join(kinds)


def _print(console: Console, title: str, found: Iterable[tuple[Key, str]]) -> None:
    """A block for each key: names are too long for columns beside each other."""
    console.print(Text(title, style="italic"))
    for key, kinds in found:
        console.print(Text(key.path, style="bold"), soft_wrap=True)
        default = f"default: {key.default}" if key.default else "must be given"
        facts = "; ".join(filter(None, (key.kind, default, kinds and f"datasets: {kinds}")))
        for text in (Text(facts, style="dim"), Text(key.meaning)):
            console.print(Padding(text, (0, 0, 0, 4), expand=False))


def _markdown(recipe: list[Key], datasets: dict[Key, tuple[str, ...]]) -> str:
    lines = [INTRODUCTION, "## Recipe"]
    section = ""
    for key in recipe:
        if key.path.partition(".")[0] != section:
            section = key.path.partition(".")[0]
            lines += ["", f"### {section}", "", "| key | type | default | meaning |", "|---|---|---|---|"]
        name = key.path.partition(".")[2] or key.path
        lines.append(_line(f"`{name}`", key.kind, _code(key.default), key.meaning))
    lines += [
        "",
        "## Dataset file",
        "",
        "| key | datasets | type | default | meaning |",
        "|---|---|---|---|---|",
    ]
    for key, kinds in datasets.items():
        lines.append(_line(f"`{key.path}`", _kinds_listed(kinds), key.kind, _code(key.default), key.meaning))
    return "\n".join(lines) + "\n"


def _code(default: str) -> str:
    return f"`{default}`" if default else ""


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
