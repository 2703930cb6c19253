"""`ltx2 init`: from a folder of clips to a dataset file and a recipe that are valid and fit the card."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.prompt import Prompt

from flows.cli.options import refuse
from ltxcore.config.datasets import load_datasets
from ltxcore.config.errors import ConfigError
from ltxcore.config.recipe import load_recipe
from ltxcore.jobs.begin.draft import Draft, TooLittleTime, draft, write
from ltxcore.jobs.begin.look import Look, NothingToUse, look_at
from ltxcore.jobs.begin.wishes import BY_REFERENCE, OF_SOUND, Wishes, names_of
from ltxcore.pipeline.data.tables import counted

console = Console()
SHOWN = 5


class NotAsked(LookupError):
    """A question could not be put, since nobody sits there."""


def init(
    clips: Annotated[Path | None, typer.Option(help="The folder of your clips, or of sounds.")] = None,
    goal: Annotated[
        str | None, typer.Option(help="What the LoRA is for: a goal that `ltx2 presets` lists.")
    ] = None,
    card: Annotated[str | None, typer.Option(help="Your card, as `ltx2 presets` lists it.")] = None,
    hours: Annotated[float | None, typer.Option(help="How long the training may take.")] = None,
    trigger: Annotated[str | None, typer.Option(help="The trigger words of what is trained.")] = None,
    references: Annotated[Path | None, typer.Option(help="Reference videos, for IC-LoRA.")] = None,
    output: Annotated[Path, typer.Option(help="Where both files are written.")] = Path(),
) -> None:
    """Look at your clips and write datasets.yaml and recipe.yaml for them; asks for what you leave out."""
    try:
        wishes = _wishes(clips, goal, card, hours, trigger, references)
        look = look_at(wishes.clips, sounds=wishes.goal == OF_SOUND)
        _show(look)
        made = draft(wishes, look, output)
        datasets, recipe = write(made, output)
        load_datasets(datasets, load_recipe(recipe).data)
    except ValidationError as error:
        reasons = [f"{'.'.join(map(str, fault['loc']))} {fault['msg']}".strip() for fault in error.errors()]
        raise refuse(ValueError("\n".join(text.replace("Value error, ", "") for text in reasons))) from None
    except (ConfigError, NotAsked, NothingToUse, TooLittleTime, OSError) as error:
        raise refuse(error) from None
    _tell(made, look, datasets, recipe)


def _wishes(
    clips: Path | None,
    goal: str | None,
    card: str | None,
    hours: float | None,
    trigger: str | None,
    references: Path | None,
) -> Wishes:
    asked = clips is None or goal is None or card is None
    chosen: dict[str, Any] = {
        "clips": clips or Path(_ask("clips", "Where are your clips?")),
        "goal": goal or _ask("goal", "What is the LoRA for?", names_of("goals")),
    }
    if references is None and chosen["goal"] in BY_REFERENCE:
        references = Path(_ask("references", "Where are the reference videos?"))
    chosen |= {
        "card": card or _ask("card", "Which card?", names_of("cards")),
        "references": references,
        "hours": hours,
        "trigger": trigger or "",
    }
    if asked and hours is None:
        given = _ask("hours", "How many hours may it train? (empty: as the goal says)", default="")
        chosen["hours"] = given or None
    if asked and trigger is None:
        chosen["trigger"] = _ask("trigger", "Which words should invoke it? (empty: none)", default="")
    return Wishes.model_validate(chosen)


def _ask(option: str, question: str, names: Sequence[str] = (), default: str | None = None) -> str:
    """The answer to a question, of some names where there are any; a wrong one is asked again."""
    if not sys.stdin.isatty():
        known = f" One of {', '.join(names)}." if names else ""
        raise NotAsked(f"there is no terminal to ask in; give --{option}. {question}{known}")
    if default is None:
        return Prompt.ask(question, console=console, choices=list(names) or None)
    return Prompt.ask(question, console=console, default=default, show_default=False)


def _show(look: Look) -> None:
    seconds = sorted(clip.seconds for clip in look.read)
    console.print(
        f"{counted(look.files, 'file')}; of {len(look.read)} that were read, {seconds[0]:.1f} to "
        f"{seconds[-1]:.1f} s long, {look.with_sound} with sound",
        highlight=False,
    )
    for count, what, names in (
        (len(look.refused), "cannot be used", look.refused),
        (len(look.uncaptioned), "have no caption and will be rejected", look.uncaptioned),
    ):
        if count:
            more = "" if count <= SHOWN else f" and {count - SHOWN} more"
            line = f"{count} {what}: {', '.join(names[:SHOWN])}{more}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def _tell(made: Draft, look: Look, datasets: Path, recipe: Path) -> None:
    size = "" if made.size is None else f" of {made.size[0]}x{made.size[1]} and {made.frames} frames"
    console.print(
        f"{made.steps} steps with samples{size}: about {made.hours:.1f} hours of training, predicted",
        highlight=False,
    )
    short = sum(clip.seconds < made.seconds for clip in look.read)
    if short:
        console.print(f"{counted(short, 'clip')} shorter than {made.seconds:.1f} s will be left out")
    console.print(f"written: {datasets}, {recipe}", markup=False, highlight=False, soft_wrap=True)
    files = f"--datasets {datasets} --recipe {recipe}"
    console.print("next:", highlight=False)
    for command in ("validate", "run"):
        console.print(f"  ltx2 {command} {files}", markup=False, highlight=False, soft_wrap=True)
