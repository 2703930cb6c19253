"""One execution of one stage: what it is asked for, whether that is done already, and the record of it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ltxcore.config.recipe import Recipe
from ltxcore.execution.needed_keys import ensure_needs, publish_needs
from ltxcore.execution.stage_code import StageCode, code_of
from ltxcore.memory.plan import MemoryPlan
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import Stage
from ltxcore.pipeline.base.progress import Progress, ProgressState
from ltxcore.pipeline.base.stamp import (
    FIRST_RUN,
    ManifestEntry,
    Outcome,
    Stamp,
    find_stamp,
    stage_directory,
    why_stale,
    write_manifest,
    write_stamp,
)

logger = logging.getLogger(__name__)

NOTHING_CHANGED = "nothing changed"


def find_result(
    stage: Stage, ctx: Context, code: StageCode | None = None
) -> tuple[dict[str, Any], Stamp | None]:
    """The request of a stage, and its stamp if the stage is up to date and everything that the stamp names is
    in place.

    Imports no torch, so that a parent can ask before it starts a process.

    Args:
        code: of a stage that is none of the project's.

    Raises:
        MissingInput: an earlier stage has to run first.
    """
    asked = (code or code_of(stage)).request
    request = asked.request(ctx)
    stamp = find_stamp(ctx.workspace, stage, request)
    return request, stamp if stamp is not None and asked.present(ctx, stamp) else None


def note_up_to_date(
    stage: Stage, ctx: Context, stamp: Stamp, run: Path, code: StageCode | None = None
) -> ManifestEntry:
    """Record in a run's folder that a stage was up to date, and in the store that its result is needed."""
    ensure_needs(ctx, stage, stamp.request, (code or code_of(stage)).request.needs)
    counts = dict(stamp.outcome.counts)
    if "hits" in counts:
        counts["hits"] += counts.pop("done", 0)
        counts["done"] = 0
    entry = ManifestEntry(
        stage=stage.name,
        stamp=_stamp_path(stage, ctx, stamp.request),
        up_to_date=True,
        seconds=0.0,
        process=os.getpid(),
        counts=counts,
        why=why_up_to_date(stamp),
    )
    write_manifest(run, entry)
    Progress(stage.name, run).end(f"up to date, {counts.get('hits', 0)} hits")
    return entry


def why_up_to_date(stamp: Stamp) -> str:
    """Why a stage need not run, in words; also where it would have more to do if somebody wished."""
    if stamp.stopped_after is None:
        return NOTHING_CHANGED
    return (
        f"it was stopped and kept after step {stamp.stopped_after}; `ltx2 control continue` lets the next "
        "run go on"
    )


def passed_over(entry: ManifestEntry) -> str:
    """What a log says of a stage that was up to date."""
    message = f"{entry.stage} is up to date: {entry.counts.get('hits', 0)} hits"
    return message if entry.why == NOTHING_CHANGED else f"{message}; {entry.why}"


@dataclass
class Execution:
    """One execution of a stage that has work to do."""

    stage: Stage
    ctx: Context
    request: dict[str, Any]
    run: Path
    listener: Callable[[ProgressState], None] | None = None
    started_s: float = field(default_factory=time.time)
    plan: MemoryPlan | None = None
    failed_plans: tuple[str, ...] = ()
    """The plans that ran out of memory before `plan`, each with the reason."""
    threads: int | None = None
    """Threads that it computes with on a CPU; None: not known, or on a GPU."""
    device: str = "cpu"
    """Where it computes; known once there is a plan."""
    own_code: StageCode | None = None
    """Of a stage that is none of the project's."""

    def __post_init__(self) -> None:
        self.why = why_stale(self.ctx.workspace, self.stage, self.request)
        directory = self.ctx.workspace.relative(self.directory)
        self.progress = Progress(self.stage.name, self.run, self.listener, directory)
        # Noted before the stage looks at what is there, so that no sweep takes it away in between.
        publish_needs(self.ctx, self.stage, self.request, self.code.request.needs(self.ctx))
        logger.info("%s: %s", self.stage.name, self.why)

    @property
    def code(self) -> StageCode:
        """The stage's functions, or those that were passed in their place."""
        return self.own_code or code_of(self.stage)

    @property
    def directory(self) -> Path:
        """The directory for files of this request."""
        return stage_directory(self.ctx.workspace, self.stage, self.request)

    def work_by(self, recipe: Recipe, plan: MemoryPlan, failed_plans: tuple[str, ...] = ()) -> None:
        """Use a memory plan. Its recipe changes how the stage works; the request stays the same."""
        self.ctx, self.plan, self.failed_plans = self.ctx.with_recipe(recipe), plan, failed_plans

    def finish(self, outcome: Outcome, answered: dict[str, Any] | None = None) -> Stamp:
        """Write the stamp, after all that it names is in place, and record it in the run's folder.

        Args:
            outcome: what the stage did.
            answered: the request that the result belongs to, where it is another than was asked.
        """
        request = self.request if answered is None else answered
        ensure_needs(self.ctx, self.stage, request, self.code.request.needs)
        if self.plan is not None:
            memory = {**self.plan.facts(), "setbacks": list(self.failed_plans)}
            outcome = outcome.model_copy(update={"facts": {**outcome.facts, "memory": memory}})
        if outcome.threads is None:
            outcome = outcome.model_copy(update={"threads": self.threads})
        stamp = write_stamp(
            self.ctx.workspace,
            self.stage,
            request,
            outcome,
            self.started_s,
            os.getpid(),
            newest=not self.ctx.step,
        )
        counts, why = self._of_this_run(outcome)
        write_manifest(
            self.run,
            ManifestEntry(
                stage=self.stage.name,
                stamp=_stamp_path(self.stage, self.ctx, request),
                up_to_date=False,
                seconds=stamp.seconds,
                process=stamp.process,
                counts=counts,
                why=why,
            ),
        )
        resumed = self.progress.state.resumed_at
        self.progress.end(f"done, resumed at step {resumed}" if resumed else "done")
        return stamp

    def _of_this_run(self, outcome: Outcome) -> tuple[dict[str, int], str]:
        """The counts and the reason of this run's own work, which may have continued that of another run."""
        resumed = self.progress.state.resumed_at
        if not resumed:
            return outcome.counts, self.why
        counts = {**outcome.counts, "done": outcome.counts["done"] - resumed}
        counts["hits"] = outcome.counts.get("hits", 0) + resumed
        message = f"resumed at step {resumed}"
        return counts, message if self.why == FIRST_RUN else f"{message}; {self.why}"


def _stamp_path(stage: Stage, ctx: Context, request: dict[str, Any]) -> str:
    return ctx.workspace.relative(stage_directory(ctx.workspace, stage, request) / "stage.json")
