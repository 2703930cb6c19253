"""Terminal output: live progress of the stages, and the summary at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

from flows.tables import table as empty_table
from ltxcore.jobs.publish.publication import read_published
from ltxcore.jobs.report import run_summary as summaries
from ltxcore.pipeline.base.contract import stage_named
from ltxcore.pipeline.base.progress import read_progress
from ltxcore.pipeline.base.stamp import read_manifest
from ltxcore.pipeline.data.tables import counted
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
    console.print()
    if (clips := _clips(summary)) is not None:
        console.print(clips)
    console.print(_stages(workspace, run))
    for label, place in _places(workspace, run, summary, ui_command):
        # Soft wrap: a path that a terminal has broken in two cannot be copied or clicked.
        console.print(f"[bold]{label:<8}[/] {place}", soft_wrap=True, highlight=False)


def summary_json(workspace: Workspace, run: Path, code: int) -> dict[str, Any]:
    """What a run had and left, as plain JSON: for programs that start one.

    Args:
        code: the exit status of the run.
    """
    found: dict[str, Any] = {"run": run.name, "done": code == 0, "log": str(workspace.log_of(run))}
    error = run / "error.txt"
    if code and error.exists():
        found["error"] = error.read_text().strip()
    summary = summaries.read_summary(workspace, run)
    if summary is None:
        return found
    if summary.snapshot is not None:
        rejected = {entry.id: entry.reason for entry in summary.snapshot.rejections}
        found["clips"] = {"taken": len(summary.snapshot.samples), "rejected": rejected}
    if summaries.decodes(summary):
        found["quarantined"] = summaries.quarantined(summary)
    found["stages"] = summaries.stage_rows(workspace, run)
    if (loss := summaries.losses(summary)) is not None:
        found["loss"] = {"first": loss[0], "last": loss[1]}
    if (held_out := summaries.held_out_losses(summary)) is not None:
        found["held_out"] = asdict(held_out)
    found["loras"] = [str(path) for path in summaries.loras(workspace, summary)]
    pages = {
        "dataset": summaries.dataset_page(workspace, summary),
        "gallery": summaries.gallery(workspace, summary),
    }
    found |= {name: str(page) for name, page in pages.items() if page is not None}
    if (published := read_published(run)) is not None:
        found["hub"] = published.url
    return found


def _clips(summary: summaries.RunSummary) -> Group | None:
    """The line about the clips, as far as the run's stages report them; None if they report nothing."""
    snapshot, broken = summary.snapshot, summaries.quarantined(summary)
    rejections = () if snapshot is None else snapshot.rejections
    counts = []
    if snapshot is not None:
        counts.append(f"{len(snapshot.samples)} taken in {counted(len(snapshot.buckets()), 'bucket')}")
        counts.append(f"{len(rejections)} rejected")
    if summaries.decodes(summary):
        counts.append(f"{len(broken)} quarantined")
    if not counts:
        return None
    parts: list[Table | str] = [f"[bold]Clips[/]    {', '.join(counts)}"]
    rows = [(r.id, r.reason) for r in rejections] + list(broken.items())
    if rows:
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        table.add_column(overflow="fold")
        table.add_column(overflow="fold")
        for clip, reason in rows:
            table.add_row(Text(f"         {clip}"), Text(reason, style="dim"))
        parts.append(table)
    return Group(*parts)


def _stages(workspace: Workspace, run: Path) -> Table:
    rows = summaries.stage_rows(workspace, run)
    numbers = ["done", "hits", "seconds", "peak GiB", "peak GPU GiB", "process"]
    if not any(row["peak GPU GiB"] for row in rows):
        numbers.remove("peak GPU GiB")
    headings = [heading.replace("peak GPU GiB", "GPU GiB") for heading in numbers]
    table = empty_table({"stage": "name", "state": "words", **dict.fromkeys(headings, "figures")})
    for row in rows:
        state = "up to date" if row["state"] == "up to date" else row["why"]
        table.add_row(row["stage"], Text(state), *(str(row[number]) for number in numbers))
    return table


def _places(
    workspace: Workspace, run: Path, summary: summaries.RunSummary, ui_command: str
) -> Iterator[tuple[str, str]]:
    if (loss := summaries.losses(summary)) is not None:
        yield "Loss", f"{loss[0]:.4f} -> {loss[1]:.4f}"
    if (stopped := summaries.stopped_after(summary)) is not None:
        yield "Stopped", f"after step {stopped}, and kept; `ltx2 control continue` lets the next run go on"
    if (held_out := summaries.held_out_losses(summary)) is not None:
        yield "Held out", str(held_out)
    if (verdict := summaries.verdict(summary)) is not None:
        yield "Verdict", escape(verdict)
    for path in summaries.loras(workspace, summary):
        yield "LoRA", _short(path)
    dataset = summaries.dataset_page(workspace, summary)
    if dataset is not None:
        yield "Dataset", _short(dataset)
    page = summaries.gallery(workspace, summary)
    if page is not None:
        yield "Gallery", _short(page)
    gate = summaries.gate_page(workspace, summary)
    if gate is not None:
        yield "Gate", _short(gate)
    if (published := read_published(run)) is not None:
        yield "Hub", escape(published.url)
    yield "UIs", ui_command


def _short(path: Path) -> str:
    here = Path.cwd()
    return escape(str(path.relative_to(here) if path.is_relative_to(here) else path))
