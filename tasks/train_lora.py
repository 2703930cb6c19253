"""Tasks of train-lora."""

from __future__ import annotations

from collections.abc import Callable

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from ltxcore.stages import train_lora as stage
from ltxcore.stages.memory_plans import plan_rows
from ltxcore.stages.run import StageRun
from ltxcore.stages.stamp import Outcome
from tasks import artifacts
from tasks.stage import within_budget
from tasks.training_display import TrainingDisplay


@task(name="plan-memory", cache_policy=NO_CACHE)
def plan_memory(training: stage.Training) -> None:
    """Predict what each stage needs, show it, and refuse here what cannot fit."""
    rows = plan_rows(training.ctx, device=training.device)
    artifacts.table("memory-plan", rows, "What each stage needs of memory")
    training.plan()


@task(name="train", cache_policy=NO_CACHE)
def train(
    training: stage.Training, run: StageRun, should_stop: Callable[[], bool], pause_at: int
) -> Outcome | None:
    """Train to the last step, or pause; never retried in this process, which may hold what leaked."""
    shown = TrainingDisplay(training, run)
    try:
        result = training.run(shown, should_stop, pause_at)
    finally:
        shown.plot()
    return None if result is None else training.finish(result)


def train_all(run: StageRun, should_stop: Callable[[], bool], pause_at: int = 0) -> int | None:
    """The whole stage, or its part up to the step `pause_at`, if that is not 0.

    Returns:
        The step after which it paused; None where it is finished.
    """
    from ltxcore.memory.device import pick_device

    with within_budget(run):
        training = stage.Training(run.ctx, run.directory, run.request, pick_device(), run.plan)
        plan_memory(training)
        run.progress.begin(training.recipe.training.max_train_steps, "steps", "loading")
        outcome = train(training, run, should_stop, pause_at)
    if outcome is None:
        run.progress.at(run.progress.state.done, "paused: samples are rendered")
        return pause_at
    if outcome.facts["mlflow_error"]:
        get_run_logger().warning("MLflow does not have all of it yet: %s", outcome.facts["mlflow_error"])
    run.finish(outcome)
    return None
