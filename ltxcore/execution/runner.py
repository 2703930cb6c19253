"""Running a stage: one writer, within its memory budget, unit by unit, and the stamp at the end.

An orchestrator puts its own around the steps by `Hooks`; without one this is all that a stage needs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from ltxcore.execution.execution import Execution, find_result, note_up_to_date, passed_over
from ltxcore.execution.memory_budget import memory_budget
from ltxcore.execution.stage_code import StageCode
from ltxcore.media.errors import Undecided
from ltxcore.memory.measure import measure_peaks
from ltxcore.memory.out_of_memory import is_out_of_memory
from ltxcore.memory.plan import MemoryPlan
from ltxcore.pipeline.base.clips_undecided import ClipsUndecided
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import Stage
from ltxcore.pipeline.base.progress import ProgressState
from ltxcore.pipeline.base.stamp import Stamp
from ltxcore.pipeline.base.work import Assignment, Place, Result, Stopped, Work, never
from ltxcore.store.lease import writing
from ltxcore.store.locks import exclusive

logger = logging.getLogger(__name__)


class Hooks:
    """What an orchestrator adds around the steps of a stage. These add nothing."""

    def device(self) -> AbstractContextManager[Callable[[], bool]]:
        """Hold the device that a stage computes on; gives what says, after each step, whether to stop."""
        return nullcontext(never)

    def load(self, work: Work[Any], load: Callable[[], None]) -> None:
        """Call `load`, which loads the models of a work."""
        load()

    def unit(self, work: Work[Any], do: Callable[[], Stopped | None]) -> Stopped | None:
        """Call `do`, which does a unit of a work, and return what it returns."""
        return do()

    def measured(self, execution: Execution, plan: MemoryPlan, peak_bytes: int) -> None:
        """Show what a stage took of memory beside what was predicted."""

    def show(self, execution: Execution, work: Work[Any], result: Result) -> None:
        """Show what came of a work that was not stopped, before it is stamped."""


NO_HOOKS = Hooks()


def open_execution(
    stage: Stage,
    ctx: Context,
    run: Path,
    *,
    check: Callable[[Context, Stage], None] | None = None,
    listener: Callable[[ProgressState], None] | None = None,
    code: StageCode | None = None,
) -> Execution | None:
    """A stage that has work to do, or None where its result is in place, which is noted in the run's folder.

    Args:
        stage: which.
        ctx: what it is run for.
        run: the folder in which it notes what it did.
        check: refuses, by an exception, what the stage would refuse later.
        listener: is called with how far the work is.
        code: of a stage that is none of the project's.

    Raises:
        MissingInput: an earlier stage has to run first.
    """
    request, stamp = find_result(stage, ctx, code)
    if stamp is None:
        if check is not None:
            check(ctx, stage)
        return Execution(stage, ctx, request, run, listener, own_code=code)
    _note(stage, ctx, stamp, run, code)
    return None


def run_work(
    execution: Execution,
    hooks: Hooks = NO_HOOKS,
    pause_at: int = 0,
) -> Stamp | Stopped | None:
    """Do what a stage was opened for. Main thread only: the memory budget's watchdog needs it.

    Args:
        hooks: what an orchestrator adds.
        pause_at: the step after which a training pauses; 0: none.

    Returns:
        The stamp; what stopped the work on request; None where another run has done all of it meanwhile.

    Raises:
        OverBudget, NoPlanLeft: there is no memory plan for it; nothing is loaded then.
        StageOutOfMemory: it ran out of memory; the next plan is on record.
        ClipsUndecided: some clips could not be decoded, all others are done.
    """
    with execution.ctx.workspace.going_on(execution.run):
        if execution.stage.writes:
            # A device first: nobody waits for one who keeps others from writing to the store meanwhile.
            with hooks.device() as should_stop:
                with _alone(execution) as needed:
                    done = _work(execution, hooks, should_stop, pause_at) if needed else None
                return None if done is None else _close(execution, hooks, *done)
        with _alone(execution) as needed:
            if not needed:
                return None
            with hooks.device() as should_stop:
                return _close(execution, hooks, *_work(execution, hooks, should_stop, pause_at))


def _work(
    execution: Execution, hooks: Hooks, should_stop: Callable[[], bool], pause_at: int
) -> tuple[Work[Any], Result | Stopped]:
    """All that needs to be the one writer."""
    progress = execution.progress
    work = execution.code.load_work()(
        Assignment(
            execution.ctx,
            execution.request,
            execution.directory,
            progress,
            should_stop,
            pause_at,
            execution.run.name,
        )
    )
    if total := work.total():
        progress.begin(total, work.counted, work.doing)
        if (stopped := _compute(execution, work, hooks)) is not None:
            return work, stopped
    return work, work.outcome()


def _close(execution: Execution, hooks: Hooks, work: Work[Any], ended: Result | Stopped) -> Stamp | Stopped:
    """Show what came of a work, and stamp it."""
    if isinstance(ended, Stopped):
        return ended
    hooks.show(execution, work, ended)
    if ended.refusal is not None:
        raise ended.refusal
    stamp = execution.finish(ended.outcome, ended.request)
    work.after_stamp()
    return stamp


def _compute(execution: Execution, work: Work[Any], hooks: Hooks) -> Stopped | None:
    """Load, and do all units within the memory budget."""
    with memory_budget(execution) as plan:
        place = Place(execution.ctx, execution.device, plan)
        if work.loading:
            hooks.load(work, partial(work.load, place))
        else:
            work.load(place)
        stopped = do_units(work, hooks)
    if plan is not None:
        peaks = measure_peaks()
        hooks.measured(execution, plan, peaks.vram_bytes if plan.on_device else peaks.rss_bytes)
    if stopped is not None:
        logger.info("%s: stopped, %s", execution.stage.name, stopped.kept)
        if not stopped.paused_at:
            execution.progress.stop(stopped.kept)
    return stopped


def do_units(work: Work[Any], hooks: Hooks = NO_HOOKS, tries: int | None = None) -> Stopped | None:
    """Do every unit of a work that is loaded, also those after one in which a clip could not be decoded.

    Args:
        work: which.
        hooks: what an orchestrator adds.
        tries: how often a unit is tried; None: as the work says.

    Raises:
        ClipsUndecided: at the end, with the clips of all units.
    """
    undecided: dict[str, Undecided] = {}
    for unit in work.units():
        try:
            stopped = hooks.unit(work, partial(_do, work, unit, tries or 1 + work.retries))
        except ClipsUndecided as error:
            undecided |= error.reasons
        else:
            if stopped is not None:
                return stopped
    if undecided:
        raise ClipsUndecided(undecided)
    return None


def _do(work: Work[Any], unit: Any, tries: int) -> Stopped | None:
    """Do a unit, and try again if that failed, unless it ran out of memory."""
    for left in range(tries - 1, -1, -1):
        try:
            return work.do(unit)
        except Exception as error:
            if not left or is_out_of_memory(error):
                raise
            logger.warning("%s failed and is tried again: %s", work.unit, error)
    raise AssertionError("the last try returns or raises")


@contextmanager
def _alone(execution: Execution) -> Iterator[bool]:
    """Be the one writer of the stage's part of the store, or the one run of its request.

    Gives False where another run has done all of it meanwhile, which is noted.
    """
    stage, ctx = execution.stage, execution.ctx
    purpose, on_wait = f"{stage.name} of {ctx.workspace.root}", partial(_tell_waiting, execution)
    if stage.writes:
        lock = writing(ctx.store, stage.writes, purpose, on_wait=on_wait)
    else:
        lock = exclusive(execution.directory / "lock", purpose, on_wait=on_wait)
    with lock:
        _, stamp = find_result(stage, ctx, execution.own_code)
        if stamp is not None:
            _note(stage, ctx, stamp, execution.run, execution.own_code)
        yield stamp is None


def _note(stage: Stage, ctx: Context, stamp: Stamp, run: Path, code: StageCode | None) -> None:
    entry = note_up_to_date(stage, ctx, stamp, run, code)
    logger.info("%s", passed_over(entry))


def _tell_waiting(execution: Execution, holder: str) -> None:
    logger.info("waiting for %s", holder)
    execution.progress.begin(0, "", f"waiting for {holder}")
