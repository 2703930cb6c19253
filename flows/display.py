"""What a person sees in the terminal: live progress of the stages, and the summary at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from ltxcore.stages import summary as summaries
from ltxcore.stages.contract import stage_named
from ltxcore.stages.progress import read_progress
from ltxcore.stages.stamp import read_manifest
from ltxcore.store.workspace import Workspace

REFRESH_S = 0.2


class StageBars:
    """One bar for each stage, read from the run's progress files."""

    def __init__(self, run: Path, names: list[str]) -> None:
        self._run, self._names = run, names
        self._bars = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("[bold]{task.description:<18}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._tasks = {
            name: self._bars.add_task(name, total=None, note="waiting", start=False) for name in names
        }

    def watch(self, console: Console, alive: Callable[[], bool], wait: Callable[[float], None]) -> None:
        """Refresh until the process that does the work has ended."""
        with Live(self._bars, console=console, refresh_per_second=8):
            while alive():
                self._refresh()
                wait(REFRESH_S)
            self._refresh()

    def _refresh(self) -> None:
        for name, task in self._tasks.items():
            state = read_progress(self._run, name)
            if state is None:
                continue
            self._bars.start_task(task)
            finished = read_manifest(self._run, stage_named(name)) is not None
            # A stage without work has a bar all the same, a full one.
            total = max(state.total, 1) if finished else state.total or None
            done = total if finished and total else state.done
            self._bars.update(task, total=total, completed=done, note=f"{state.unit} {state.message}".strip())


def print_summary(console: Console, workspace: Workspace, run: Path, ui_command: str) -> None:
    """Clips, stages, losses, and where everything is."""
    summary = summaries.read_summary(workspace, run)
    if summary is None:
        return
    console.print(_clips(summary))
    console.print(_stages(workspace, run))
    console.print(_places(workspace, summary, ui_command))


def _clips(summary: summaries.RunSummary) -> Group:
    snapshot = summary.snapshot
    taken, rejected = len(snapshot.samples), len(snapshot.rejections)
    parts: list[Table | str] = [
        f"[bold]Clips[/]: {taken} taken in {len(snapshot.buckets())} buckets, {rejected} rejected"
    ]
    encode = summary.stamp("encode-latents")
    broken = {} if encode is None else encode.outcome.facts["quarantined"]
    rows = [(r.id, "rejected", r.reason) for r in snapshot.rejections]
    rows += [(clip, "quarantined", reason) for clip, reason in broken.items()]
    if rows:
        table = Table("clip", "verdict", "reason", box=None, padding=(0, 2))
        for row in rows:
            table.add_row(*row)
        parts.append(table)
    return Group(*parts)


def _stages(workspace: Workspace, run: Path) -> Table:
    rows = summaries.stage_rows(workspace, run)
    table = Table(title="Stages", title_justify="left")
    for column in rows[0]:
        table.add_column(column, justify="left" if column in ("stage", "state", "why") else "right")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    return table


def _places(workspace: Workspace, summary: summaries.RunSummary, ui_command: str) -> Panel:
    lines = []
    if (loss := summaries.losses(summary)) is not None:
        lines.append(f"Loss     {loss[0]:.4f} -> {loss[1]:.4f}")
    lines += [f"LoRA     {path}" for path in summaries.loras(workspace, summary)]
    page = summaries.gallery(workspace, summary)
    if page is not None:
        lines.append(f"Gallery  {page}")
    lines.append(f"UIs      {ui_command}")
    return Panel("\n".join(lines), title="Where it is", title_align="left", expand=False)
