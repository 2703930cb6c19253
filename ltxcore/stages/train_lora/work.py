"""train-lora: the adapter, trained on committed latents and text features, with its files and its record."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ltxcore.pipeline.base.work import Assignment, Place, Result, Stopped, Work, loaded
from ltxcore.pipeline.plan.auto_settings import settle
from ltxcore.stages.train_lora.control import Requests
from ltxcore.stages.train_lora.sample_steps import reached_step
from ltxcore.stages.train_lora.step_progress import StepProgress
from ltxcore.stages.train_lora.training import Training, in_steps

if TYPE_CHECKING:
    from ltxcore.training.loop import TrainResult
    from ltxcore.training.metrics import StepMetrics

logger = logging.getLogger(__name__)

THE_TRAINING = ("the training",)


class TrainLora(Work[str]):
    """One training, which is one unit: its steps commit by checkpoints."""

    counted, doing = "steps", "loading"
    loading, unit = "plan-memory", "train"
    # This process may hold what leaked, and a checkpoint is what a new one goes on from.
    retries = 0

    def __init__(self, asked: Assignment) -> None:
        super().__init__(asked)
        self.training: Training | None = None
        self.watchers: list[Callable[[StepMetrics], None]] = []
        """Called after each step."""
        self._result: TrainResult | None = None

    def total(self) -> int:
        return in_steps(settle(self.ctx)).training.max_train_steps

    def load(self, place: Place) -> None:
        """Refuse here what cannot fit. The models are loaded by the processes that train."""
        super().load(place)
        asked = self.asked
        self.training = Training(self.ctx, asked.directory, asked.request, place.device, place.plan)
        self.training.plan()

    def units(self) -> Sequence[str]:
        return THE_TRAINING

    def do(self, unit: str) -> Stopped | None:
        from ltxcore.training.loop import TrainingInterrupted

        asked = self.asked
        watchers: list[Callable[[StepMetrics], None]] = [StepProgress(asked.progress), *self.watchers]

        def on_step(metrics: StepMetrics) -> None:
            for watcher in watchers:
                watcher(metrics)

        try:
            result = loaded(self.training).run(on_step, asked.should_stop, asked.pause_at)
        except TrainingInterrupted as stopped:
            return Stopped(stopped.kept)
        if result is None:
            asked.progress.at(asked.progress.state.done, "paused: samples are rendered")
            step = reached_step(asked.directory)
            return Stopped(f"paused after step {step}", step)
        self._result = result
        return None

    def outcome(self) -> Result:
        outcome = loaded(self.training).finish(loaded(self._result))
        if outcome.facts["mlflow_error"]:
            logger.warning("MLflow does not have all of it yet: %s", outcome.facts["mlflow_error"])
        self.asked.progress.resumed(outcome.facts["resume"]["step"])
        # Fewer than were planned, where it was ended before.
        self.asked.progress.ends_at(outcome.counts["steps"])
        return Result(outcome)

    def after_stamp(self) -> None:
        """Answer who has asked for something meanwhile."""
        Requests(self.asked.directory).close(loaded(self._result).steps)


WORK = TrainLora
