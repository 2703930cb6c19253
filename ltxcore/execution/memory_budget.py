"""Keeps a stage within its budget: plans before loading, limits and watches memory, and records failures."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ltxcore.execution.memory_plans import host_limit_bytes
from ltxcore.execution.strategies import AS_ASKED, Choice, choose
from ltxcore.execution.threads import with_threads
from ltxcore.memory.out_of_memory import is_out_of_memory
from ltxcore.memory.plan import GIB, MemoryPlan, machine_bytes
from ltxcore.memory.planner.fallback import kind_of
from ltxcore.memory.watchdog import HostMemoryExceeded, Watchdog, host_use_bytes
from ltxcore.pipeline.base.contract import RENDER
from ltxcore.pipeline.plan.out_of_memory_record import MAX_FAILED_PLANS, OutOfMemoryRecord

if TYPE_CHECKING:
    from ltxcore.execution.execution import Execution

logger = logging.getLogger(__name__)


class StageOutOfMemory(RuntimeError):
    """A stage ran out of memory, or used more than it may. What it had committed is in place."""


@contextmanager
def memory_budget(run: Execution) -> Iterator[MemoryPlan | None]:
    """Run a stage's work by the fastest plan that fits and has not failed before. Main thread only.

    Yields the plan, None if the stage loads no models; `run.ctx` has that plan's recipe from then on. On a
    CPU the stage computes with the threads of `with_threads`. If memory runs out, on the device or past the
    host's budget, this is recorded for the stage's next process.

    Raises:
        OverBudget: no plan fits; nothing is loaded then.
        NoPlanLeft: every plan has failed before.
        StageOutOfMemory: the stage ran out of memory.
    """
    record = OutOfMemoryRecord(run.directory, run.ctx.recipe.memory)
    record.settle()
    device = _device(run)
    run.device = device or "cpu"
    choice = None if device is None else _choose(run, record, device)
    if choice is not None:
        failures = tuple(f"{failed_plan.plan}: {failed_plan.reason}" for failed_plan in record.all())
        run.work_by(choice.strategy.recipe, choice.plan, failures)
        if choice.strategy.name != AS_ASKED:
            run.why += f"; because memory ran out: {choice.strategy.name}"
    name = AS_ASKED if choice is None else choice.strategy.name
    plan = None if choice is None else choice.plan
    limit = host_limit_bytes(run.ctx, run.stage)
    if run.ctx.recipe.memory.ram_gib is None:
        # A stage's own allowance is for the stage: a notebook or a server that calls it may hold more than
        # that already. Only a limit which the recipe sets is one for all that the process holds.
        limit = min(limit + host_use_bytes(), machine_bytes())
    watchdog = Watchdog(
        limit,
        on_breach=lambda use: record.note(name, f"it held {use}", "host", plan),
        on_peak=lambda use: record.used(use.used_bytes, use.limit_bytes),
    )
    record.begin(name, plan)
    try:
        with watchdog, with_threads(run.ctx, run.stage, device or "cpu", run.directory) as threads:
            run.threads = threads
            yield plan
    except HostMemoryExceeded as error:
        raise _failed(run, name, str(error)) from error
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        record.note(name, reason, kind_of(error, plan is not None and plan.on_device), plan)
        raise _failed(run, name, reason) from error
    finally:
        record.end()


def _device(run: Execution) -> str | None:
    """The device of a stage; None if it loads no models."""
    if not run.stage.models or (run.stage is RENDER and run.ctx.recipe.validation.validation_disable):
        return None
    from ltxcore.memory.device import pick_device

    return pick_device()


def _choose(run: Execution, record: OutOfMemoryRecord, device: str) -> Choice:
    from ltxcore.memory.device import cap_device_memory

    known = record.all()
    choice = choose(run.ctx, run.stage, device, known)
    for failed_plan in known:
        logger.warning(
            "%s ran out of memory with %s: %s", run.stage.name, failed_plan.plan, failed_plan.reason
        )
    plan = choice.plan
    logger.info(
        "%s works by this plan: %s (%s); %.2f GiB predicted of %.2f allowed",
        run.stage.name,
        choice.strategy.name,
        plan.strategy,
        plan.total_bytes / GIB,
        plan.budget_bytes / GIB,
    )
    cap_device_memory(device, run.ctx.recipe.memory.vram_gib)
    return choice


def _failed(run: Execution, plan: str, reason: str) -> StageOutOfMemory:
    return StageOutOfMemory(
        f"{run.stage.name} ran out of memory with the plan {plan!r}: {reason}. What was committed is kept; "
        f"its next run takes the next plan, up to {MAX_FAILED_PLANS} times"
    )
