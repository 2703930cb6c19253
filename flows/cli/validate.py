"""`ltx2 validate`: whether a job can run, and what it would do, write and take."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

import typer
from rich.console import Console
from rich.text import Text

from flows.cli.options import (
    STORE_FAULTS,
    DatasetsOption,
    RecipeOption,
    WorkspaceOption,
    read_recipe,
    refuse,
)
from flows.hub_token import token_here
from flows.tables import table as empty_table
from ltxcore.config.dataset_remarks import remarks
from ltxcore.config.errors import ConfigError
from ltxcore.execution.drawn_seed import expected_seeds
from ltxcore.jobs.checks.job_checks import JobRefused, refusals
from ltxcore.jobs.estimate.estimate import Estimate, estimate
from ltxcore.jobs.estimate.figures import StageEstimate
from ltxcore.memory.plan import GIB
from ltxcore.models.errors import ModelError
from ltxcore.pipeline.base.context import context_here
from ltxcore.pipeline.base.here import Here
from ltxcore.pipeline.base.progress import duration
from ltxcore.pipeline.data.tables import counted
from ltxcore.store.workspace import Workspace
from ltxcore.validation.rendering_settings import settings_of_renderings

console = Console()
WOULD_FAIL: Final = 1


def validate(
    workspace: WorkspaceOption = Path("workspace"),
    datasets: DatasetsOption = Path("datasets.yaml"),
    recipe: RecipeOption = None,
) -> None:
    """Check datasets and recipe, and estimate a run, without running or writing anything.

    Ends with 0 if a run can start, 2 if the configuration is wrong, and 1 if it is right but a run would
    fail: no clip can be used, no plan of a stage fits in memory, the disk is too small, or there is no token
    for an upload that is asked for.
    """
    try:
        chosen = read_recipe(recipe)
        ctx = expected_seeds(context_here(Workspace(workspace), chosen, datasets))
        found = ctx.datasets
        said = refusals(ctx, Here(hub_token=partial(token_here, workspace)))
        if any(refusal.check.of == "recipe" for refusal in said):
            raise JobRefused(said)
        plans = () if chosen.validation.validation_disable else settings_of_renderings(chosen.validation)
        notes = dict.fromkeys(note for plan in plans for note in plan.notes)
        figures = estimate(ctx)
    except (ConfigError, ModelError, ValueError, *STORE_FAULTS) as error:
        raise refuse(error) from None
    for dataset in found.media:
        message = f"{dataset.id}: {dataset.dataset_type}, {found.directory(dataset)}"
        console.print(message, markup=False, soft_wrap=True)
    for note in (*chosen.remarks, *remarks(found), *notes, *filter(None, [ctx.decided])):
        console.print(Text.assemble(("note", "yellow"), f"  {note}"), soft_wrap=True)
    _print(figures)
    # A refusal of the planner for the same reason is shown once.
    planned = [text for text in figures.problems if not any(refusal.message in text for refusal in said)]
    problems = [*(refusal.render() for refusal in said), *planned]
    for problem in problems:
        console.print(Text(problem, style="red"), soft_wrap=True)
    if problems:
        raise typer.Exit(WOULD_FAIL)
    console.print(f"{datasets} and {recipe or 'the default recipe'} are valid", markup=False, soft_wrap=True)


def _print(figures: Estimate) -> None:
    seen = f"{figures.looked_at} looked at: {figures.taken} taken, {figures.rejected} rejected"
    if figures.used_by_clips:
        seen += f", {figures.used_by_clips} used by clips"
    console.print(f"{counted(figures.files, 'file')}, {seen}", highlight=False)
    table = empty_table(
        {"stage": "name", **dict.fromkeys(("to do", "in place", "disk", "time", "memory GiB"), "figures")}
    )
    for stage in figures.stages:
        table.add_row(*_row(stage))
    total = figures.seconds
    table.add_row(
        "all", "", "", size(figures.disk_bytes), "?" if total is None else duration(total), style="bold"
    )
    console.print(table)
    for disk in figures.disks:
        free = f"{size(disk.free_bytes)} are free for {disk.place}"
        console.print(free, markup=False, highlight=False, soft_wrap=True)
    stages_of: dict[str, list[str]] = {}
    for stage in figures.stages:
        for note in stage.notes:
            stages_of.setdefault(note, []).append(stage.stage.name)
    for note, stages in stages_of.items():
        console.print(f"{', '.join(stages)}: {note}", markup=False, highlight=False, soft_wrap=True)


def _row(stage: StageEstimate) -> tuple[str, ...]:
    plan = stage.memory
    return (
        stage.stage.name,
        f"? {stage.unit}" if stage.to_do is None else counted(stage.to_do, stage.unit.removesuffix("s")),
        "" if stage.in_place is None else str(stage.in_place),
        "?" if stage.disk_bytes is None else size(stage.disk_bytes),
        "?" if stage.seconds is None and stage.to_do != 0 else duration(stage.seconds or 0.0),
        "" if plan is None else f"{plan.total_bytes / GIB:.1f} of {plan.budget_bytes / GIB:.1f}",
    )


def size(count: float) -> str:
    """Bytes in the unit that fits."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
