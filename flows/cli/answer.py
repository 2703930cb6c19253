"""How `ltx2 plan` and `ltx2 validate` print whether a run can start, and what it takes."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from flows.tables import say
from flows.tables import table as empty_table
from ltxcore.jobs.estimate.answer import Answer, memory_gib
from ltxcore.jobs.estimate.figures import StageEstimate
from ltxcore.memory.plan import RESIDENT
from ltxcore.pipeline.base.progress import duration
from ltxcore.pipeline.data.tables import counted

UNKNOWN = "?"


def print_answer(console: Console, answer: Answer, notes: Sequence[str] = ()) -> None:
    """The first line, the stages, and what would change the answer."""
    style = "bold green" if answer.can_start else "bold red"
    say(console, Text(answer.first_line, style=style))
    for problem in answer.problems if len(answer.problems) > 1 else answer.problems[:1]:
        if len(answer.problems) > 1 or "\n" in problem:
            say(console, Text(f"  {problem}", style="red"))
    _print_counts(console, answer)
    _print_stages(console, answer)
    for line in _below(answer):
        say(console, line)
    for note in notes:
        say(console, Text.assemble(("note", "yellow"), f"  {note}"))
    for change in answer.advice:
        say(console, Text.assemble(("faster", "green"), f"  {change}"))


def _print_counts(console: Console, answer: Answer) -> None:
    figures = answer.figures
    if answer.described:
        say(console, f"{counted(figures.taken, 'clip')}, as described")
        return
    seen = f"{figures.looked_at:,} looked at: {figures.taken:,} taken, {figures.rejected:,} rejected"
    if figures.used_by_clips:
        seen += f", {figures.used_by_clips} used by clips"
    if figures.headers:
        seen += f"; of {figures.headers} the headers alone"
    say(console, f"{counted(figures.files, 'file')}, {seen}")


def _print_stages(console: Console, answer: Answer) -> None:
    priced = answer.price_per_hour is not None
    columns = ("\nto do", "\ntime", "GPU\nGiB", "host\nGiB", "\ndisk", *(("\nprice",) if priced else ()))
    table = empty_table({"\nstage": "name", **dict.fromkeys(columns, "figures")})
    for stage in answer.figures.stages:
        price = answer.price_of(stage.seconds)
        # The planner has refused it: `problems` say what it lacks.
        refused = stage.memory is None and any(text.startswith(stage.stage.name) for text in answer.problems)
        table.add_row(*_cells(stage, fits=not refused), *((_money(price),) if priced else ()))
    seconds = answer.figures.seconds
    total = (
        "all",
        "",
        UNKNOWN if seconds is None else duration(seconds),
        "",
        "",
        size(answer.figures.disk_bytes),
        *((_money(answer.price),) if priced else ()),
    )
    table.add_row(*total, style="bold")
    console.print(table)


def _cells(stage: StageEstimate, *, fits: bool) -> tuple[str, ...]:
    device, host = memory_gib(stage)
    work = (
        f"{UNKNOWN} {stage.unit}"
        if stage.to_do is None
        else counted(stage.to_do, stage.unit.removesuffix("s"))
    )
    if stage.to_do == 0:
        return stage.stage.name, "done", "", "", "", ""
    time = UNKNOWN if stage.seconds is None else duration(stage.seconds)
    if not fits:
        return stage.stage.name, work, "no fit", "", "", _disk(stage)
    # Without a model a stage keeps within its budget, whatever the clips are.
    held = (
        f"<{stage.stage.ram_gib:.0f}"
        if not stage.stage.models
        else UNKNOWN
        if host is None
        else f"{host:.1f}"
    )
    return (
        stage.stage.name,
        work,
        time if stage.is_measured or stage.seconds is None else f"~{time}",
        UNKNOWN if device is None else f"{device:.1f}" if device else "-",
        held,
        _disk(stage),
    )


def _disk(stage: StageEstimate) -> str:
    return UNKNOWN if stage.disk_bytes is None else size(stage.disk_bytes)


def _below(answer: Answer) -> list[str]:
    """What the table has no room for, a line each."""
    figures = answer.figures
    lines = []
    if any(stage.to_do and not stage.is_measured and stage.seconds is not None for stage in figures.stages):
        lines.append("~ is predicted, right within a factor of two; a stage's first run here replaces it")
    ways = [
        f"{stage.stage.name}: {stage.memory.strategy}"
        for stage in figures.stages
        if stage.memory is not None and stage.memory.strategy != RESIDENT
    ]
    lines += ways
    if answer.bound:
        lines.append(answer.bound)
    if answer.problems and answer.machine.planned is None:
        lines.append("which cards would do, says `ltx2 plan`; `--card 4090` asks about one")
    in_place = [f"{stage.in_place} {stage.unit}" for stage in figures.stages if stage.in_place]
    if in_place:
        lines.append(f"in place already: {', '.join(in_place)}")
    if figures.download_bytes:
        lines.append(f"before it starts, about {size(figures.download_bytes)} of weights are downloaded")
    lines += [f"{size(disk.free_bytes)} are free for {disk.place}" for disk in figures.disks]
    stages_of: dict[str, list[str]] = {}
    for stage in figures.stages:
        for note in stage.notes:
            stages_of.setdefault(note, []).append(stage.stage.name)
    return lines + [f"{', '.join(stages)}: {note}" for note, stages in stages_of.items()]


def print_cards(console: Console, answers: Sequence[Answer], title: str) -> None:
    """A row a card, and why two of one size differ."""
    priced = any(answer.price_per_hour is not None for answer in answers)
    columns = ("GPU\nGiB", "host\nGiB", "\ns/step", "\nall", *(("\nprice",) if priced else ()))
    table = empty_table({"\ncard": "name", "\nruns": "words", **dict.fromkeys(columns, "figures")}, title)
    for answer in answers:
        table.add_row(*_card_cells(answer, priced), style=None if answer.can_start else "red")
    console.print(table)
    for answer in answers:
        for problem in answer.problems:
            why, *changes = problem.splitlines()
            say(console, f"{_card(answer)}: {why}{''.join(changes[:1])}")
    for answer in answers:
        if answer.bound:
            say(console, f"{_card(answer)}: {answer.bound}")


def _card(answer: Answer) -> str:
    planned = answer.machine.planned
    return answer.machine.name if planned is None else planned.device_name


def _card_cells(answer: Answer, priced: bool) -> list[str]:
    stages = answer.figures.stages
    training = next((s.memory for s in stages if s.stage.name == "train-lora"), None)
    peaks = [memory_gib(stage) for stage in stages]
    device = max((gib for gib, _ in peaks if gib is not None), default=0.0)
    host = max((gib for _, gib in peaks if gib is not None), default=0.0)
    seconds = answer.figures.seconds
    way = "" if training is None else training.strategy.split(", connectors")[0]
    if not answer.can_start:
        return [_card(answer), "does not fit", "-", "-", "-", "-", *(("-",) if priced else ())]
    cells = [
        _card(answer),
        way,
        f"{device:.1f}",
        f"{host:.1f}",
        UNKNOWN if training is None or training.step_s is None else f"{training.step_s:.1f}",
        UNKNOWN if seconds is None else f"~{duration(seconds)}",
    ]
    return [*cells, _money(answer.price)] if priced else cells


def _money(price: float | None) -> str:
    return UNKNOWN if price is None else f"{price:.2f}"


def size(count: float) -> str:
    """Bytes in the unit that fits."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
