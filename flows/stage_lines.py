"""Progress lines of a run without a terminal: under nohup, in CI, in a pipe."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rich.console import Console

from ltxcore.pipeline.base.contract import stage_named
from ltxcore.pipeline.base.progress import ProgressState, duration, read_progress
from ltxcore.pipeline.base.stamp import read_manifest

EVERY: Final = "LTX2_TELL_EVERY_S"
"""Variable for the seconds between two lines of one stage."""
EVERY_S: Final = 30.0
LOOK_S: Final = 0.5


class StageLines:
    """A line when a stage starts, one every half a minute, and one when it ends."""

    def __init__(self, run: Path, names: list[str], clock: Callable[[], float] = time.time) -> None:
        self._run, self._names, self._clock = run, names, clock
        self._every_s = float(os.environ.get(EVERY) or EVERY_S)
        self._shown_s: dict[str, float] = {}
        self._ended: set[str] = set()

    def watch(self, console: Console, alive: Callable[[], bool], wait: Callable[[float], None]) -> None:
        """Print progress until the process that does the work has ended."""
        while alive():
            self._look(console)
            wait(LOOK_S)
        self._look(console)

    def _look(self, console: Console) -> None:
        for name in self._names:
            for line in self._news(name):
                console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _news(self, name: str) -> list[str]:
        state = read_progress(self._run, name)
        if state is None or name in self._ended:
            return []
        now, lines = self._clock(), []
        if name not in self._shown_s:
            self._shown_s[name] = now
            lines.append(f"{name}: started")
        entry = read_manifest(self._run, stage_named(name))
        if entry is not None:
            self._ended.add(name)
            how = "up to date" if entry.up_to_date else f"done in {duration(entry.seconds)}"
            if not entry.up_to_date and state.resumed_at:
                how += f", resumed at step {state.resumed_at}"
            counts = f"{entry.counts.get('done', 0)} done, {entry.counts.get('hits', 0)} hits"
            return [*lines, f"{name}: {how} ({counts})"]
        if now - self._shown_s[name] >= self._every_s:
            self._shown_s[name] = now
            lines.append(f"{name}: {_progress(state, now)}")
        return lines


def _progress(state: ProgressState, now: float) -> str:
    if not state.total:
        return state.message or "at work"
    parts = [f"{state.done}/{state.total} {state.unit}".strip()]
    if state.message:
        parts.append(state.message)
    elapsed_s = now - state.started_s
    if 0 < state.done < state.total and "left" not in state.message:
        parts.append(f"about {duration(elapsed_s * (state.total - state.done) / state.done)} left")
    return ", ".join(parts)
