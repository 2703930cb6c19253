"""`ltx2 validate`: whether a job can run, and what it would do, write and take."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.cli_options import (
    STORE_FAULTS,
    DatasetsOption,
    RecipeOption,
    WorkspaceOption,
    read_recipe,
    refuse,
)
from flows.hub_token import token_here
from ltxcore.config.dataset_remarks import remarks
from ltxcore.config.errors import ConfigError
from ltxcore.config.hub_settings import HubSettings
from ltxcore.memory.plan import GIB
from ltxcore.models.errors import ModelError
from ltxcore.models.finding import check_adapter
from ltxcore.models.source import check_model
from ltxcore.models.teacher import check_teacher
from ltxcore.publishing.errors import HubRefused
from ltxcore.publishing.token import require_token
from ltxcore.stages.context import Context
from ltxcore.stages.crepa_checks import check_crepa
from ltxcore.stages.estimate import Estimate, estimate
from ltxcore.stages.stage_estimates import StageEstimate
from ltxcore.stages.training_checks import check_training
from ltxcore.store.workspace import Workspace
from ltxcore.validation.plan import plan_rendering

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
        ctx = Context(Workspace(workspace), chosen, datasets)
        found = ctx.datasets
        check_model(chosen.model)
        check_training(ctx, audio_only=found.audio_only)
        if chosen.crepa.crepa_enabled:
            check_teacher(chosen.crepa, ctx.workspace.models)
            check_crepa(ctx, audio_only=found.audio_only)
        for adapter in chosen.validation.adapter_paths:
            check_adapter(adapter)
        notes = () if chosen.validation.validation_disable else plan_rendering(chosen.validation).notes
        figures = estimate(ctx)
    except (ConfigError, ModelError, ValueError, *STORE_FAULTS) as error:
        raise refuse(error) from None
    for dataset in found.media:
        told = f"{dataset.id}: {dataset.dataset_type}, {found.directory(dataset)}"
        console.print(told, markup=False, soft_wrap=True)
    for note in (*remarks(found), *notes):
        console.print(Text.assemble(("note", "yellow"), f"  {note}"), soft_wrap=True)
    _print(figures)
    problems = [*figures.problems, *_hub_problems(chosen.hub, workspace)]
    for problem in problems:
        console.print(Text(problem, style="red"), soft_wrap=True)
    if problems:
        raise typer.Exit(WOULD_FAIL)
    console.print(f"{datasets} and {recipe or 'the default recipe'} are valid", markup=False, soft_wrap=True)


def _hub_problems(hub: HubSettings, workspace: Path) -> list[str]:
    """Why nothing could be uploaded; the hub itself is not asked."""
    if not hub.push_to_hub:
        return []
    try:
        require_token(token_here(workspace))
    except HubRefused as error:
        return [str(error)]
    return []


def _print(figures: Estimate) -> None:
    seen = f"{figures.looked_at} looked at: {figures.taken} taken, {figures.rejected} rejected"
    console.print(f"{figures.files} files, {seen}", highlight=False)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("stage", "to do", "in place", "disk", "time", "memory GiB"):
        table.add_column(heading, justify="left" if heading == "stage" else "right", no_wrap=True)
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
    told: dict[str, list[str]] = {}
    for stage in figures.stages:
        for note in stage.notes:
            told.setdefault(note, []).append(stage.stage.name)
    for note, stages in told.items():
        console.print(f"{', '.join(stages)}: {note}", markup=False, highlight=False, soft_wrap=True)


def _row(stage: StageEstimate) -> tuple[str, ...]:
    plan = stage.memory
    return (
        stage.stage.name,
        f"{'?' if stage.to_do is None else stage.to_do} {stage.unit}",
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


def duration(seconds: float) -> str:
    """Seconds in the unit that fits."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
