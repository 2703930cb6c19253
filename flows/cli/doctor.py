"""`ltx2 doctor`: what this machine has, and what it lacks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from flows.cli.examine import examine
from flows.cli.options import JsonOption, WorkspaceOption, show_json

console = Console()


def doctor(workspace: WorkspaceOption = Path("workspace"), as_json: JsonOption = False) -> None:
    """Show what this machine has and lacks."""
    findings = examine(workspace)
    if as_json:
        show_json([asdict(finding) for finding in findings])
    for finding in () if as_json else findings:
        mark = "[green]ok[/]" if finding.good else "[red]missing[/]"
        console.print(
            f"{mark}  {escape(f'{finding.subject}: {finding.detail}')}", highlight=False, soft_wrap=True
        )
    raise typer.Exit(0 if all(finding.good for finding in findings) else 1)
