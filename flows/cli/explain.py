"""`ltx2 explain`: what happened to a clip, and which stage would run again and why."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows.cli.options import (
    STORE_FAULTS,
    AgainOption,
    DatasetsAgainOption,
    NoWorkspace,
    WorkspaceOption,
    at_work,
    context_again,
    refuse,
    show_json,
)
from flows.tables import say
from ltxcore.config.errors import ConfigError
from ltxcore.execution.drawn_seed import expected_seeds
from ltxcore.jobs.explain.explain import ClipReport, UnknownClip, explain_clip, explain_stages
from ltxcore.models.errors import ModelError
from ltxcore.store.workspace import LATEST

console = Console(highlight=False)
VERDICTS = {"in": "is trained on"}


def explain(
    clip: Annotated[str, typer.Argument(help="A clip's id or path. Default: explain every stage.")] = "",
    workspace: WorkspaceOption = Path("workspace"),
    datasets: DatasetsAgainOption = None,
    recipe: AgainOption = None,
    snapshot: Annotated[str, typer.Option(help="Id of a snapshot, or `latest`.")] = LATEST,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with the inputs of each key.")] = False,
) -> None:
    """Show for a clip whether it is used and why, what would be computed again and why, and which
    snapshots and runs contain it."""
    try:
        ctx = expected_seeds(context_again(workspace, recipe, datasets, snapshot))
        if clip:
            with at_work("comparing with what is stored"):
                report = explain_clip(ctx, clip)
            show_json(report.as_json()) if as_json else _print_clip(report)
            return
        with at_work("comparing with what is stored"):
            stages = explain_stages(ctx)
        if as_json:
            show_json([asdict(stage) for stage in stages])
            return
        if ctx.decided:
            _say(ctx.decided)
        for stage in stages:
            _say(f"{stage.stage}: {stage.state}" + (f": {stage.why[0]}" if stage.why else ""))
            for line in stage.why[1:]:
                _say(f"    {line}")
    except (ConfigError, ModelError, NoWorkspace, UnknownClip, OSError, *STORE_FAULTS) as error:
        raise refuse(error) from None


def _print_clip(report: ClipReport) -> None:
    _say(f"{report.clip}  ({report.file})")
    _say(
        f"  {VERDICTS.get(report.verdict, report.verdict)}" + (f": {report.reason}" if report.reason else "")
    )
    for line in report.used:
        _say(f"  {line}")
    for track in report.tracks:
        _say(f"  {track.what}: {track.state}" + (f", {track.why}" if track.why else ""))
    for title, lines in (
        ("a run now would do", report.work or ["nothing"]),
        ("snapshots that name it", report.snapshots or ["none"]),
        ("runs that saw it", report.runs or ["none"]),
    ):
        _say(f"  {title}:")
        for line in lines:
            _say(f"      {line}")


def _say(text: str) -> None:
    say(console, text)
