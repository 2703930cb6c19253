"""A stage within its budget: planned before it loads, capped and watched while it runs, its failure noted."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ltxcore.memory.fallback import kind_of
from ltxcore.memory.out_of_memory import is_out_of_memory
from ltxcore.memory.plan import GIB, MemoryPlan
from ltxcore.memory.watchdog import HostMemoryExceeded, Watchdog
from ltxcore.stages.contract import RENDER
from ltxcore.stages.memory_plans import host_limit_bytes
from ltxcore.stages.setbacks import MAX_SETBACKS, Setbacks
from ltxcore.stages.strategies import AS_ASKED, Choice, choose

if TYPE_CHECKING:
    from ltxcore.stages.run import StageRun

logger = logging.getLogger(__name__)


class StageOutOfMemory(RuntimeError):
    """A stage that ran out of memory, or held more than it may. What it had committed is in place."""


@contextmanager
def enforced(run: StageRun) -> Iterator[MemoryPlan | None]:
    """Run a stage's work by the fastest plan that fits and has not failed before. Main thread only.

    Gives the plan, None where the stage loads no models; `run.ctx` has that plan's recipe from then on.
    Running out of memory, on the device or past the host's budget, is noted for the stage's next process.

    Raises:
        OverBudget: no plan fits; nothing is loaded then.
        NoPlanLeft: every plan has failed before.
        StageOutOfMemory: the stage ran out of memory.
    """
    setbacks = Setbacks(run.directory, run.ctx.recipe.memory)
    setbacks.settle()
    choice = _choose(run, setbacks)
    if choice is not None:
        told = tuple(f"{setback.plan}: {setback.reason}" for setback in setbacks.all())
        run.work_by(choice.strategy.recipe, choice.plan, told)
        if choice.strategy.name != AS_ASKED:
            run.why += f"; for want of memory {choice.strategy.name}"
    name = AS_ASKED if choice is None else choice.strategy.name
    plan = None if choice is None else choice.plan
    limit = host_limit_bytes(run.ctx, run.stage)
    watchdog = Watchdog(
        limit,
        on_breach=lambda use: setbacks.note(name, f"it held {use}", "host", plan),
        on_peak=lambda use: setbacks.used(use.used_bytes, use.limit_bytes),
    )
    setbacks.begin(name, plan)
    try:
        with watchdog:
            yield plan
    except HostMemoryExceeded as error:
        raise _failed(run, name, str(error)) from error
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        setbacks.note(name, reason, kind_of(error, plan is not None and plan.on_device), plan)
        raise _failed(run, name, reason) from error
    finally:
        setbacks.end()


def _choose(run: StageRun, setbacks: Setbacks) -> Choice | None:
    if not run.stage.models or (run.stage is RENDER and run.ctx.recipe.validation.validation_disable):
        return None
    from ltxcore.memory.device import cap_device_memory, pick_device

    device, known = pick_device(), setbacks.all()
    choice = choose(run.ctx, run.stage, device, known)
    for setback in known:
        logger.warning("%s ran out of memory with %s: %s", run.stage.name, setback.plan, setback.reason)
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


def _failed(run: StageRun, plan: str, reason: str) -> StageOutOfMemory:
    return StageOutOfMemory(
        f"{run.stage.name} ran out of memory with the plan {plan!r}: {reason}. What was committed is kept; "
        f"its next run takes the next plan, up to {MAX_SETBACKS} times"
    )
