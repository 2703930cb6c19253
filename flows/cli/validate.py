"""`ltx2 validate`: whether a job can run, and what it would do, write and take."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from flows.cli.answer import print_answer
from flows.cli.options import (
    STORE_FAULTS,
    AgainOption,
    DatasetsAgainOption,
    JsonOption,
    PriceOption,
    WorkspaceOption,
    at_work,
    job_again,
    read_recipe,
    refuse,
    show_json,
)
from flows.hub_token import token_here
from flows.tables import say
from ltxcore.config.dataset_remarks import remarks
from ltxcore.config.errors import ConfigError
from ltxcore.execution.drawn_seed import expected_seeds
from ltxcore.jobs.checks.job_checks import JobRefused
from ltxcore.jobs.estimate.answer import answer
from ltxcore.jobs.estimate.machines import UnknownCard, named_card, this_machine
from ltxcore.memory.planned_machine import planned_for
from ltxcore.models.errors import ModelError
from ltxcore.pipeline.base.context import Context, context_here
from ltxcore.pipeline.base.here import Here
from ltxcore.store.workspace import Workspace
from ltxcore.validation.rendering_settings import settings_of_renderings

console = Console()
WOULD_FAIL: Final = 1


def validate(
    workspace: WorkspaceOption = Path("workspace"),
    datasets: DatasetsAgainOption = None,
    recipe: AgainOption = None,
    card: Annotated[
        str | None, typer.Option(help="A card to answer for, as `ltx2 plan` names it. Default: this machine.")
    ] = None,
    price_per_hour: PriceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say whether a run can start and what it takes, without running or writing anything.

    Ends with 0 if a run can start, 2 if the configuration is wrong, and 1 if it is right but no run can
    start: no clip can be used, the model is neither here nor on the hub, no plan of a stage fits in memory,
    the disk is too small, or there is no token for an upload that is asked for.
    """
    try:
        recipe, datasets = job_again(recipe, datasets, workspace)
        machine = this_machine() if card is None else named_card(card)
        with at_work("looking at clips and model"), planned_for(machine.planned):
            ctx = expected_seeds(context_here(Workspace(workspace), read_recipe(recipe), datasets))
            here = Here(hub_token=partial(token_here, workspace))
            found = answer(ctx, here, machine, price_per_hour=price_per_hour)
    except (ConfigError, JobRefused, ModelError, UnknownCard, ValueError, *STORE_FAULTS) as error:
        raise refuse(error) from None
    if as_json:
        show_json(found.as_json())
    else:
        print_answer(console, found, job_notes(ctx, is_here=machine.is_here))
        if found.can_start:
            valid = f"{datasets} and {recipe or 'the default recipe'} are valid"
            say(console, valid)
    if not found.can_start:
        raise typer.Exit(WOULD_FAIL)


def job_notes(ctx: Context, *, is_here: bool = True) -> list[str]:
    """What of recipe and datasets is used otherwise than it is written, or decided for the machine here."""
    chosen = ctx.recipe
    plans = () if chosen.validation.validation_disable else settings_of_renderings(chosen.validation)
    notes = dict.fromkeys(note for plan in plans for note in plan.notes)
    where = [f"{d.id}: {d.dataset_type}, {ctx.datasets.directory(d)}" for d in ctx.datasets.media]
    return [
        *where,
        *chosen.remarks,
        *remarks(ctx.datasets),
        *notes,
        *filter(None, [ctx.decided if is_here else ""]),
    ]
