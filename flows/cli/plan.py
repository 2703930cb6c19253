"""`ltx2 plan`: whether a training fits, how long it takes and what it costs, here and on other cards."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from flows.cli.answer import print_answer, print_cards
from flows.cli.options import (
    STORE_FAULTS,
    AgainOption,
    DatasetsAgainOption,
    JsonOption,
    PriceOption,
    WorkspaceOption,
    at_work,
    errors,
    job_again,
    read_recipe,
    refuse,
    show_json,
)
from flows.cli.validate import job_notes
from flows.hub_token import token_here
from flows.tables import say
from ltxcore.config.datasets import load_datasets
from ltxcore.config.errors import ConfigError
from ltxcore.config.geometry import GEOMETRY
from ltxcore.config.model_settings import TINY_MODEL, TOY_MODEL
from ltxcore.config.recipe import Recipe
from ltxcore.execution.drawn_seed import expected_seeds
from ltxcore.jobs.checks.job_checks import JobRefused
from ltxcore.jobs.estimate.answer import Answer, answer, answer_elsewhere
from ltxcore.jobs.estimate.described_clips import described_clips
from ltxcore.jobs.estimate.machines import AnsweredMachine, UnknownCard, named_card, this_machine
from ltxcore.memory.arrangement import StrategyUnavailable
from ltxcore.memory.planned_machine import planned_for
from ltxcore.memory.planner.cards import CARDS
from ltxcore.models.errors import ModelError
from ltxcore.models.version import Version
from ltxcore.models.versions import VERSIONS
from ltxcore.pipeline.base.context import Context, context_here
from ltxcore.pipeline.base.here import Here
from ltxcore.store.snapshot import Snapshot
from ltxcore.store.workspace import Workspace

console = Console()
SIZE, FRAMES, CLIPS = "768x512", 49, 100
"""Of clips that are described in part, or not at all where there is no dataset file."""
FULL_SIZE: Final = VERSIONS["2.0"]
"""What is planned on cards for a recipe of the toy or the tiny model."""


@dataclass(frozen=True)
class _Asked:
    """What the options ask about."""

    workspace: Workspace
    recipe: Recipe
    datasets: Path
    clips: Snapshot | None
    """Described ones; None: those of the datasets."""
    version: Version | None

    def context(self) -> Context:
        """Recipe and datasets on the machine that is planned for."""
        return expected_seeds(context_here(self.workspace, self.recipe, self.datasets))

    @property
    def on_cards(self) -> _Asked:
        """The same for cards: nobody needs one for the toy, so LTX-2 at full size is planned in its place."""
        small = self.recipe.model.pretrained_model_name_or_path in (TINY_MODEL, TOY_MODEL)
        if not small or self.version is not None:
            return self
        clips = self.clips or described_clips(*_size(SIZE), FRAMES, CLIPS, audio=True)
        return replace(self, recipe=Recipe(), clips=clips, version=FULL_SIZE)

    @property
    def subject(self) -> str:
        """What is planned, in words."""
        model = "the recipe's model" if self.version is None else f"LTX-{self.version.name} at full size"
        if self.clips is None:
            return f"{model}, your clips"
        one = self.clips.samples[0]
        width, height = one.geometry.target
        return f"{model}, {len(self.clips.samples)} clips of {width}x{height}, {one.frames.count} frames"


def plan(
    workspace: WorkspaceOption = Path("workspace"),
    datasets: DatasetsAgainOption = None,
    recipe: AgainOption = None,
    card: Annotated[
        list[str] | None,
        typer.Option(help=f"One of {', '.join(CARDS)}; may be repeated. Default: this machine, then all."),
    ] = None,
    ram: Annotated[float | None, typer.Option(help="GiB of host memory beside each card.")] = None,
    price_per_hour: PriceOption = None,
    version: Annotated[
        str | None,
        typer.Option(help=f"Plan for LTX-2 {', '.join(VERSIONS)} at full size. Default: the recipe's model."),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help=f"Width x height of clips, instead of your own: {SIZE}.")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of such a clip, 8n+1.")] = None,
    clips: Annotated[int | None, typer.Option(min=1, help="How many such clips.")] = None,
    silent: Annotated[bool, typer.Option("--silent", help="Such clips have no sound.")] = False,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Clips in a step. Default: the recipe's batch size.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say whether a training fits, how long it takes and what it costs: for your clips, here and on cards.

    With one --card the answer is about that card; with several, or none, a table compares cards.
    """
    try:
        is_named = datasets is not None
        recipe, datasets = job_again(recipe, datasets, workspace)
        chosen = _with_batch(read_recipe(recipe), batch)
        given = any(option is not None for option in (size, frames, clips)) or silent
        described = None
        if given or (not is_named and not _has_clips(datasets, chosen)):
            described = described_clips(
                *_size(size or SIZE), _frames(frames or FRAMES), clips or CLIPS, audio=not silent
            )
        asked = _Asked(
            Workspace(workspace),
            chosen,
            datasets,
            described,
            None if version is None else _version(version),
        )
        named = [named_card(name, ram) for name in card or ()]
        with at_work("looking at clips and model"):
            answers = _answers(asked, named, ram, price_per_hour, workspace)
    except (
        ConfigError,
        JobRefused,
        ModelError,
        StrategyUnavailable,
        UnknownCard,
        ValueError,
        *STORE_FAULTS,
    ) as error:
        raise refuse(error) from None
    if as_json:
        show_json([found.as_json() for found in answers])
        return
    _print(asked, answers, compared=len(named) != 1)


def _answers(
    asked: _Asked, named: list[AnsweredMachine], ram: float | None, price: float | None, workspace: Path
) -> list[Answer]:
    """The answer for the machine that is asked about, and where several are, for each of them."""
    machine = named[0] if len(named) == 1 else this_machine()
    about = asked.on_cards if named else asked
    with planned_for(machine.planned):
        here = Here(hub_token=partial(token_here, workspace))
        first = answer(
            about.context(), here, machine, price_per_hour=price, released=about.version, clips=about.clips
        )
    if len(named) == 1:
        return [first]
    answers, on_cards = [] if named else [first], asked.on_cards
    for other in named or [named_card(name, ram) for name in CARDS]:
        with planned_for(other.planned):
            ctx = on_cards.context()
            answers.append(answer_elsewhere(first, ctx, other, on_cards.version, on_cards.clips))
    return answers


def _print(asked: _Asked, answers: list[Answer], *, compared: bool) -> None:
    first, *others = answers
    if first.machine.is_here or not compared:
        described = asked.clips is not None or (not first.machine.is_here and asked is not asked.on_cards)
        notes = [] if described else job_notes(asked.context(), is_here=first.machine.is_here)
        print_answer(console, first, notes)
    else:
        others = answers
    if others:
        print_cards(console, others, f"on cards: {asked.on_cards.subject}")


def _has_clips(datasets: Path, recipe: Recipe) -> bool:
    """Whether the dataset file that nobody named can be read: a fresh clone has no samples yet."""
    if not datasets.is_file():
        return False
    try:
        load_datasets(datasets, recipe.data)
    except ConfigError as error:
        say(errors, f"{error}; clips of {SIZE} are planned")
        return False
    return True


def _with_batch(recipe: Recipe, batch: int | None) -> Recipe:
    if batch is None:
        return recipe
    training = recipe.training.model_copy(update={"train_batch_size": batch})
    return recipe.model_copy(update={"training": training})


def _version(name: str) -> Version:
    if name not in VERSIONS:
        raise typer.BadParameter(f"LTX-2 {name} is not known; give one of {', '.join(VERSIONS)}")
    return VERSIONS[name]


def _frames(frames: int) -> int:
    legal = GEOMETRY.legal_frames(frames)
    if frames != legal:
        raise typer.BadParameter(f"{frames} frames are not 8n+1; give {legal}")
    return frames


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise typer.BadParameter(f"{text!r} is not a size; write width x height, such as {SIZE}")
    width, height = int(parts[0]), int(parts[1])
    nearest_size = (GEOMETRY.nearest_edge(width), GEOMETRY.nearest_edge(height))
    if nearest_size != (width, height):
        edge = GEOMETRY.spatial_factor
        raise typer.BadParameter(
            f"{text} is not a multiple of {edge}; the nearest is {nearest_size[0]}x{nearest_size[1]}"
        )
    return width, height
