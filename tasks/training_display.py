"""What a training shows while it runs: how far it is and for how long yet, and the curve of its losses."""

from __future__ import annotations

import time
from collections import deque

from ltxcore.stages import train_lora as stage
from ltxcore.stages.run import StageRun
from ltxcore.training.metrics import StepMetrics
from tasks.artifacts import LivePicture

PLOT_EVERY_S = 30.0
RECENT_STEPS = 20
"""Steps, with the evaluations and checkpoints between them, whose mean time foretells the others."""


class TrainingDisplay:
    """Called after each step."""

    def __init__(self, training: stage.Training, run: StageRun) -> None:
        self._training, self._run = training, run
        self._picture = LivePicture("loss", "Loss over the steps")
        self._ends: deque[float] = deque(maxlen=RECENT_STEPS + 1)
        self._plotted_s = time.monotonic()

    def __call__(self, metrics: StepMetrics) -> None:
        now = time.monotonic()
        self._ends.append(now)
        left = self._run.progress.state.total - metrics.step
        told = f"loss {metrics.loss:.4f}"
        if left and (each_s := self._step_s()) is not None:
            told += f", {duration(left * each_s)} left"
        self._run.progress.at(metrics.step, told)
        if now - self._plotted_s >= PLOT_EVERY_S:
            self.plot()

    def plot(self) -> None:
        """Draw the losses so far and show them."""
        if self._training.metrics_file.exists() and self._training.metrics_file.stat().st_size:
            self._training.plot()
            self._picture.show(self._training.loss_picture)
        self._plotted_s = time.monotonic()

    def _step_s(self) -> float | None:
        """Seconds from one step's end to the next, of late."""
        if len(self._ends) < 2:
            return None
        return (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)


def duration(seconds: float) -> str:
    """A time to wait, in the unit that fits."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"
