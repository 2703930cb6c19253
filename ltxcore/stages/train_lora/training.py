"""One training in its directory, in as many processes as the recipe says."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltxcore.config.base import parse
from ltxcore.config.recipe import Recipe
from ltxcore.config.training_settings import TrainingSettings
from ltxcore.memory.plan import MemoryPlan
from ltxcore.memory.threads import threads_in_use
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.stamp import Outcome
from ltxcore.pipeline.plan.auto_settings import settle
from ltxcore.stages.train_lora import memory
from ltxcore.stages.train_lora.checks import check_sharing, check_training
from ltxcore.stages.train_lora.control import decisions
from ltxcore.stages.train_lora.record import TrainingRecord

if TYPE_CHECKING:
    from ltxcore.training.loop import TrainResult
    from ltxcore.training.metrics import StepMetrics

logger = logging.getLogger(__name__)


@dataclass
class Training:
    """One training: its length, its memory plan, its processes. What is kept of it is in `record`."""

    ctx: Context
    directory: Path
    request: dict[str, Any]
    device: str
    memory_plan: MemoryPlan | None = None
    """The plan to work by. None: the first of the planner."""

    def __post_init__(self) -> None:
        self.ctx = settle(self.ctx)
        samples = self.ctx.snapshot.samples
        check_training(self.ctx, audio_only=all(sample.kind == "audio" for sample in samples))
        check_sharing(self.ctx)
        # Made before anything loads: later the weights themselves would count against what is free.
        self._memory_plan = self.memory_plan or memory.plan(self.ctx, self.device)
        self.record = TrainingRecord(self.ctx, self.directory, self.request)

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe with its length in steps, also where it is given in epochs.

        Raises: as `in_steps`.
        """
        return in_steps(self.ctx)

    def plan(self) -> MemoryPlan:
        """The memory plan of the training.

        Raises:
            OverBudget: more than it may use; nothing is loaded then.
        """
        self._memory_plan.check()
        return self._memory_plan

    def run(
        self, on_step: Callable[[StepMetrics], None], should_stop: Callable[[], bool], pause_at: int = 0
    ) -> TrainResult | None:
        """Train from the newest checkpoint on, in as many processes as the recipe says, and draw the loss.

        Returns:
            None where the training has paused with a checkpoint, and is to go on: at the step `pause_at`, or,
            unless that is 0, where somebody asked for a sample.

        Raises:
            MissingInput: a sample or a caption is not in the store.
            OptimizerMissing, BucketTooSmall: nothing is loaded then.
            TrainingInterrupted: `should_stop` said so; the checkpoint is written.
            ProcessOutOfMemory, ProcessFailed: one of several processes failed.
        """
        from ltxcore.stages.train_lora.connected_captions import delete_connected
        from ltxcore.stages.train_lora.stored_samples import StoredSamples
        from ltxcore.training.batch_schedule import BatchSchedule
        from ltxcore.training.extras import require_optimizer

        def tell(metrics: StepMetrics) -> None:
            self.record.sync()
            on_step(metrics)

        # Before minutes of loading.
        require_optimizer(self.recipe.training.optimizer)
        BatchSchedule.of(StoredSamples(self.ctx).entries(), self.recipe.training)
        self.record.begin()
        compute = self._run_team if self.recipe.processes.count > 1 else self.compute
        try:
            result = compute(tell, should_stop, pause_at)
        finally:
            # Whoever takes the record up next, in another process, finds its state on disk.
            self.record.settle()
        if result is None:
            self.record.send()
            return None
        delete_connected(self.directory)
        self.record.plot()
        return result

    def _run_team(
        self, on_step: Callable[[StepMetrics], None], should_stop: Callable[[], bool], pause_at: int
    ) -> TrainResult | None:
        from ltxcore.stages.train_lora.team import Team, TeamAssignment
        from ltxcore.training.loop import training_result

        job = TeamAssignment(
            workspace=str(self.ctx.workspace.root),
            datasets_file=str(self.ctx.datasets_file),
            snapshot=self.ctx.snapshot.id,
            recipe=self.recipe,
            directory=str(self.directory),
            request=self.request,
            memory_plan=self._memory_plan,
            threads=threads_in_use() if self.device == "cpu" else self.recipe.threads,
            pause_at=pause_at,
            count=self.recipe.processes.count,
        )
        if not Team(job).run(on_step, should_stop):
            return None
        last = decisions(self.directory).last
        return training_result(self.directory, self.recipe.training.max_train_steps, last)

    def compute(
        self, on_step: Callable[[StepMetrics], None], should_stop: Callable[[], bool], pause_at: int = 0
    ) -> TrainResult | None:
        """Load, train, and write the LoRA: the whole of it, or the part of one process among several.

        Returns, Raises: as `Computation.run`.
        """
        from ltxcore.stages.train_lora.compute import Computation

        computation = Computation(
            self.ctx, self.recipe, self.directory, self.request, self.device, self._memory_plan.arrangement
        )
        return computation.run(on_step, should_stop, pause_at)

    def finish(self, result: TrainResult) -> Outcome:
        """Complete the record and say what the training came to."""
        return self.record.finish(result, self._memory_plan, self.device)


def in_steps(ctx: Context) -> Recipe:
    """The recipe of a settled context with its length in steps, also where it is given in epochs.

    Raises:
        MissingInput: a sample or a caption is not in the store.
        ConfigError: they are over before the warm-up is.
    """
    from ltxcore.stages.train_lora.stored_samples import StoredSamples
    from ltxcore.training.batch_schedule import BatchSchedule, steps_of_epochs

    settings = ctx.recipe.training
    if not settings.num_train_epochs:
        return ctx.recipe
    plan = BatchSchedule.of(StoredSamples(ctx).entries(), settings)
    steps = steps_of_epochs(ctx.recipe, plan.batches_per_epoch)
    logger.info(
        "%d epochs of %d batches are %d steps", settings.num_train_epochs, plan.batches_per_epoch, steps
    )
    counted_out = {**settings.model_dump(), "num_train_epochs": 0, "max_train_steps": steps}
    training = parse(TrainingSettings, counted_out, f"the recipe's {settings.num_train_epochs} epochs")
    return ctx.recipe.model_copy(update={"training": training})
