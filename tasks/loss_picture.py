"""The curve of a training's losses on the run's page, drawn anew while the training goes on."""

from __future__ import annotations

import time

from ltxcore.stages.train_lora.record import TrainingRecord
from ltxcore.training.metrics import StepMetrics
from tasks.artifacts import LivePicture

PLOT_EVERY_S = 30.0


class LossPicture:
    """Called after each step."""

    def __init__(self, record: TrainingRecord) -> None:
        self._record = record
        self._picture = LivePicture("loss", "Loss over the steps")
        self._plotted_s = time.monotonic()

    def __call__(self, metrics: StepMetrics) -> None:
        if time.monotonic() - self._plotted_s >= PLOT_EVERY_S:
            self.plot()

    def plot(self) -> None:
        """Draw the losses so far and show them."""
        if self._record.metrics_file.exists() and self._record.metrics_file.stat().st_size:
            self._record.plot()
            self._picture.show(self._record.loss_picture)
        self._plotted_s = time.monotonic()
