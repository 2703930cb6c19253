"""`ltx2 doctor`: what this machine has, and what it lacks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from flows.cli.examine import examine
from flows.cli.options import JsonOption, WorkspaceOption, show_json
from flows.tables import say

console = Console()


def doctor(workspace: WorkspaceOption = Path("workspace"), as_json: JsonOption = False) -> None:
    """Show what this machine has and lacks."""
    findings = examine(workspace)
    if as_json:
        show_json([asdict(finding) for finding in findings])
    for finding in () if as_json else findings:
        mark = ("ok", "green") if finding.good else ("missing", "red")
        say(console, Text.assemble(mark, f"  {finding.subject}: {finding.detail}"))
    raise typer.Exit(0 if all(finding.good for finding in findings) else 1)
