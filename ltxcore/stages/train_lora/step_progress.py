"""How far a training is and for how long yet, for the display."""

from __future__ import annotations

import time
from collections import deque

from ltxcore.pipeline.base.progress import Progress, duration
from ltxcore.training.metrics import StepMetrics

RECENT_STEPS = 20
"""Steps, with the evaluations and checkpoints between them, whose mean time foretells the others."""


class StepProgress:
    """Called after each step."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._ends: deque[float] = deque(maxlen=RECENT_STEPS + 1)

    def __call__(self, metrics: StepMetrics) -> None:
        self._progress.resumed(metrics.step - 1)
        self._ends.append(time.monotonic())
        left = self._progress.state.total - metrics.step
        message = f"loss {metrics.loss:.4f}"
        if left and (each_s := self._step_s()) is not None:
            message += f", {duration(left * each_s)} left"
        if metrics.shown_sum:
            # Last: a narrow terminal cuts it off.
            message += f" ({metrics.shown_sum})"
        self._progress.at(metrics.step, message)

    def _step_s(self) -> float | None:
        """Seconds from one step's end to the next, of late."""
        if len(self._ends) < 2:
            return None
        return (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
