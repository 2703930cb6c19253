"""The steps of a stage as Prefect tasks, with what is shown of them on the run's page."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from ltxcore.execution.execution import Execution
from ltxcore.execution.memory_plans import plan_row
from ltxcore.execution.runner import Hooks, run_work
from ltxcore.memory.plan import MemoryPlan
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import Stage
from ltxcore.pipeline.base.stamp import Stamp
from ltxcore.pipeline.base.work import Result, Stopped, Work, never
from tasks import artifacts
from tasks.stage import open_stage

Device = Callable[[], AbstractContextManager[Callable[[], bool]]]


@task(name="load", cache_policy=NO_CACHE)
def load_models(load: Callable[[], None]) -> None:
    """Load the models of a stage."""
    load()


@task(name="unit", cache_policy=NO_CACHE)
def do_unit(do: Callable[[], Stopped | None]) -> Stopped | None:
    """Do what is committed together. It is tried again inside, so that one task stands for it."""
    return do()


def no_device() -> AbstractContextManager[Callable[[], bool]]:
    """Of a stage that computes on none."""
    return nullcontext(never)


class PrefectHooks(Hooks):
    """Tasks around the loading and the units, and artifacts of what came of them."""

    def __init__(self, device: Device = no_device) -> None:
        self._device = device

    def device(self) -> AbstractContextManager[Callable[[], bool]]:
        return self._device()

    def load(self, work: Work[Any], load: Callable[[], None]) -> None:
        from tasks.shown import show_loaded

        load_models.with_options(name=work.loading)(load)
        show_loaded(work)

    def unit(self, work: Work[Any], do: Callable[[], Stopped | None]) -> Stopped | None:
        from tasks.shown import shown_meanwhile

        with shown_meanwhile(work):
            return do_unit.with_options(name=work.unit)(do)

    def measured(self, execution: Execution, plan: MemoryPlan, peak_bytes: int) -> None:
        rows = [plan_row(plan, peak_bytes)]
        rows += [{"out of memory before": message} for message in execution.failed_plans]
        artifacts.table(f"memory-{execution.stage.name}", rows, "Predicted and measured peak of memory")

    def show(self, execution: Execution, work: Work[Any], result: Result) -> None:
        from tasks.shown import show_result

        show_result(work, result)


def run_here(
    stage: Stage, ctx: Context, pipeline_run: str, device: Device = no_device, pause_at: int = 0
) -> Stamp | Stopped | None:
    """Run a stage in this flow run; None where its result is in place.

    Args:
        stage: which.
        ctx: what it is run for.
        pipeline_run: the run of the pipeline that it belongs to; empty: one of its own.
        device: holds the device while the stage computes, and says whether a training is to stop.
        pause_at: the step after which a training pauses; 0: none.

    Raises: as `run_work`.
    """
    execution = open_stage(stage, ctx, pipeline_run)
    return None if execution is None else run_work(execution, PrefectHooks(device), pause_at)
