"""Whether a run can start, what it takes of time, memory, disk and money, and what would change that.

`ltx2 plan` and `ltx2 validate` print it, for the machine they are on or for a card that is named.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from ltxcore.jobs.checks.job_checks import JobRefused, refusals
from ltxcore.jobs.estimate.estimate import (
    Estimate,
    estimate,
    estimate_anew,
    planned_context,
)
from ltxcore.jobs.estimate.figures import StageEstimate, Weights
from ltxcore.jobs.estimate.machines import AnsweredMachine
from ltxcore.jobs.estimate.predicted_seconds import settle_where_known
from ltxcore.memory.plan import GIB
from ltxcore.memory.planner.faster import bound_by, faster
from ltxcore.memory.planner.training_planner import HOST_FIXED_BYTES
from ltxcore.models.files.hub_repository import missing_model, no_room_for
from ltxcore.models.version import Version
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import TRAIN
from ltxcore.pipeline.base.here import Here
from ltxcore.pipeline.base.progress import duration
from ltxcore.pipeline.plan.arrangements import forced_by, training_memory
from ltxcore.pipeline.plan.stage_plan import machine_for
from ltxcore.pipeline.plan.transformer_plan import planner_of, workload_of
from ltxcore.store.snapshot import Snapshot

HOUR_S: Final = 3600.0


@dataclass(frozen=True)
class Answer:
    """One machine's answer for one job."""

    machine: AnsweredMachine
    figures: Estimate
    problems: tuple[str, ...]
    """Why no run can start or end there; none: it can."""
    advice: tuple[str, ...] = ()
    """What would make it faster."""
    price_per_hour: float | None = None
    described: bool = False
    """Whether the clips are described, and no files."""
    bound: str = ""
    """What the transformer's plan rests on, where it streams blocks."""

    @property
    def can_start(self) -> bool:
        """Whether nothing that is known by now stops a run."""
        return not self.problems

    @property
    def price(self) -> float | None:
        """What the machine costs for the whole run; None where price or time is not known."""
        return self.price_of(self.figures.seconds)

    def price_of(self, seconds: float | None) -> float | None:
        """What the machine costs for so long."""
        if seconds is None or self.price_per_hour is None:
            return None
        return seconds / HOUR_S * self.price_per_hour

    @property
    def first_line(self) -> str:
        """Yes or no, and why."""
        where = self.machine.name
        if self.problems:
            more = f" (and {len(self.problems) - 1} more, below)" if len(self.problems) > 1 else ""
            return f"No, not on {where}: {self.problems[0].splitlines()[0]}{more}"
        seconds, price = self.figures.seconds, self.price
        if all(stage.to_do == 0 for stage in self.figures.stages):
            return f"Yes, on {where}: all of it is done already"
        time = (
            "in a time that the first run will tell" if seconds is None else f"in about {duration(seconds)}"
        )
        money = "" if price is None else f", for {price:.2f}"
        return f"Yes, on {where}: a run can start, and ends {time}{money}"

    def as_json(self) -> dict[str, Any]:
        """The answer as plain JSON: seconds, bytes, GiB."""
        return {
            "can_start": self.can_start,
            "answer": self.first_line,
            "machine": self.machine.name,
            "problems": list(self.problems),
            "seconds": self.figures.seconds,
            "price": self.price,
            "disk_bytes": self.figures.disk_bytes,
            "download_bytes": self.figures.download_bytes,
            "clips": {
                "files": self.figures.files,
                "looked_at": self.figures.looked_at,
                "by_header": self.figures.headers,
                "taken": self.figures.taken,
                "rejected": self.figures.rejected,
            },
            "stages": [self._stage(stage) for stage in self.figures.stages],
            "faster": list(self.advice),
        }

    def _stage(self, found: StageEstimate) -> dict[str, Any]:
        device, host = memory_gib(found)
        return {
            "stage": found.stage.name,
            "to_do": found.to_do,
            "unit": found.unit,
            "in_place": found.in_place,
            "seconds": found.seconds,
            "measured": found.is_measured,
            "device_gib": device,
            "host_gib": host,
            "disk_bytes": found.disk_bytes,
            "price": self.price_of(found.seconds),
            "way": None if found.memory is None else found.memory.strategy,
            "notes": list(found.notes),
        }


def answer(
    ctx: Context,
    here: Here,
    machine: AnsweredMachine,
    *,
    price_per_hour: float | None = None,
    released: Version | None = None,
    clips: Snapshot | None = None,
) -> Answer:
    """Ask all that is known of a job before anything is spent. To be called inside `planned_for` its machine.

    Args:
        released: the version to plan for, at its released size, in place of the recipe's model.
        clips: described ones, in place of those of the datasets.

    Raises:
        ConfigError, JobRefused: the recipe or the datasets are wrong wherever they run.
    """
    if clips is not None:
        figures = estimate_anew(ctx, clips, released)
        figures = figures if machine.is_here else replace(figures, disks=())
        found = Answer(
            machine,
            figures,
            tuple(_own(figures, ctx, machine)),
            price_per_hour=price_per_hour,
            described=True,
        )
        return _with_advice(found, ctx)
    said = refusals(ctx, here)
    if any(refusal.check.of == "recipe" for refusal in said):
        raise JobRefused(said)
    figures = estimate(ctx, released)
    if not machine.is_here:
        return answer_elsewhere(
            Answer(machine, figures, (), price_per_hour=price_per_hour), ctx, machine, released
        )
    # A refusal of the planner for the same reason is shown once.
    planned = [
        text for text in _own(figures, ctx, machine) if not any(refusal.message in text for refusal in said)
    ]
    problems = (*(refusal.render() for refusal in said), *planned)
    return _with_advice(Answer(machine, figures, problems, price_per_hour=price_per_hour), ctx)


def answer_elsewhere(
    first: Answer,
    ctx: Context,
    machine: AnsweredMachine,
    released: Version | None,
    clips: Snapshot | None = None,
) -> Answer:
    """A job on another machine, where nothing is stored yet; no file is read again.

    Args:
        first: an answer for the same clips.
        ctx: recipe and workspace, made inside `planned_for` the other machine, as this is to be called.
        released: the version to plan for, at its released size; None: the model of the recipe.
        clips: described ones, in place of those of the first answer.
    """
    before = first.figures
    snapshot, scale = (before.snapshot, before.scale) if clips is None else (clips, 1.0)
    if snapshot is None:
        return replace(first, machine=machine, problems=before.problems)
    anew = replace(estimate_anew(ctx, snapshot, released, scale), disks=())
    figures = anew
    if clips is None:
        figures = replace(
            before, stages=anew.stages, problems=anew.problems, released=anew.released, disks=()
        )
    found = Answer(machine, figures, anew.problems, price_per_hour=first.price_per_hour)
    return _with_advice(found, ctx)


def _own(figures: Estimate, ctx: Context, machine: AnsweredMachine) -> list[str]:
    """What stops a run, beside its checks. Of another machine neither disk nor network is known."""
    problems = list(figures.problems)
    if machine.is_here and figures.weights is Weights.MISSING:
        missing = missing_model(ctx.recipe.model) or no_room_for(figures.download_bytes)
        problems = [*filter(None, [missing]), *problems]
    return problems


def _with_advice(found: Answer, ctx: Context) -> Answer:
    """Add what would be faster, where a device trains and something has to be trained."""
    training = next(stage for stage in found.figures.stages if stage.stage is TRAIN)
    plan, snapshot = training.memory, found.figures.snapshot
    if plan is None or not plan.on_device or snapshot is None or ctx.recipe.processes.sharded:
        return found
    ctx = settle_where_known(planned_context(ctx, snapshot, found.figures.released))
    machine = machine_for(ctx, "cuda")
    if machine is None:
        return found
    planner, work = planner_of(ctx, machine.card), workload_of(ctx)
    precision = ctx.recipe.model.base_model_precision
    forced = forced_by(training_memory(ctx.recipe), planner.sizes.blocks, precision, device="cuda")
    best = planner.choose(work, machine.budget, precision, forced)
    bound = bound_by(planner, work, precision) if best.resident < planner.sizes.blocks else ""
    return replace(found, advice=tuple(faster(planner, work, machine.budget, best, forced)), bound=bound)


def memory_gib(found: StageEstimate) -> tuple[float | None, float | None]:
    """What a stage holds at its peak of the device and of host memory; None where it is not known.

    A stage that loads no model keeps to its own budget.
    """
    plan = found.memory
    if plan is None:
        return (None, None) if found.stage.models else (0.0, found.stage.ram_gib)
    if not plan.on_device:
        return 0.0, plan.total_bytes / GIB
    return plan.total_bytes / GIB, max(plan.host_bytes, HOST_FIXED_BYTES) / GIB
