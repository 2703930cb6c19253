"""One execution of one stage: what it is asked for, whether that is done already, and the record of it."""

from __future__ import annotations

import importlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from ltxcore.config.recipe import Recipe
from ltxcore.memory.plan import MemoryPlan
from ltxcore.stages.context import Context
from ltxcore.stages.contract import Stage
from ltxcore.stages.needs import ensure_needs, publish_needs
from ltxcore.stages.progress import Progress, ProgressState
from ltxcore.stages.stamp import (
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


def logic(stage: Stage) -> ModuleType:
    """The module that does a stage's work: `request(ctx)` and `present(ctx, stamp)` are in each."""
    return importlib.import_module(f"ltxcore.stages.{stage.name.replace('-', '_')}")


def find_result(stage: Stage, ctx: Context) -> tuple[dict[str, Any], Stamp | None]:
    """The request, and its stamp where the stage need not run: all that the stamp stands for is in place.

    Imports no torch, so that a parent can ask before it starts a process.

    Raises:
        MissingInput: an earlier stage has to run first.
    """
    code = logic(stage)
    request: dict[str, Any] = code.request(ctx)
    stamp = find_stamp(ctx.workspace, stage, request)
    return request, stamp if stamp is not None and code.present(ctx, stamp) else None


def note_up_to_date(stage: Stage, ctx: Context, stamp: Stamp, run: Path) -> ManifestEntry:
    """Note in a run's folder that a stage's result was there already, and in the store that it is needed."""
    ensure_needs(ctx, stage, stamp.request, logic(stage).needs)
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
        why="nothing changed",
    )
    write_manifest(run, entry)
    Progress(stage.name, run).end(f"up to date, {counts.get('hits', 0)} hits")
    return entry


@dataclass
class StageRun:
    """A stage that has work to do."""

    stage: Stage
    ctx: Context
    request: dict[str, Any]
    run: Path
    listener: Callable[[ProgressState], None] | None = None
    started_s: float = field(default_factory=time.time)
    plan: MemoryPlan | None = None
    setbacks: tuple[str, ...] = ()
    """The plans that ran out of memory before `plan`, each with the reason."""

    def __post_init__(self) -> None:
        self.why = why_stale(self.ctx.workspace, self.stage, self.request)
        self.progress = Progress(self.stage.name, self.run, self.listener)
        # Noted before the stage looks at what is there, so that no sweep takes it away in between.
        publish_needs(self.ctx, self.stage, self.request, logic(self.stage).needs(self.ctx))
        logger.info("%s: %s", self.stage.name, self.why)

    @property
    def directory(self) -> Path:
        """Where files of this request alone belong."""
        return stage_directory(self.ctx.workspace, self.stage, self.request)

    def work_by(self, recipe: Recipe, plan: MemoryPlan, setbacks: tuple[str, ...] = ()) -> None:
        """Take a memory plan: its recipe says how, the request what, and the request stays."""
        self.ctx, self.plan, self.setbacks = self.ctx.with_recipe(recipe), plan, setbacks

    def finish(self, outcome: Outcome) -> Stamp:
        """Write the stamp, when all that it names is in place, and note it in the run's folder."""
        # The request of latents that had to be made in tiles is another than was announced.
        ensure_needs(self.ctx, self.stage, self.request, logic(self.stage).needs)
        if self.plan is not None:
            memory = {**self.plan.facts(), "setbacks": list(self.setbacks)}
            outcome = outcome.model_copy(update={"facts": {**outcome.facts, "memory": memory}})
        stamp = write_stamp(
            self.ctx.workspace,
            self.stage,
            self.request,
            outcome,
            self.started_s,
            os.getpid(),
            newest=not self.ctx.step,
        )
        write_manifest(
            self.run,
            ManifestEntry(
                stage=self.stage.name,
                stamp=_stamp_path(self.stage, self.ctx, self.request),
                up_to_date=False,
                seconds=stamp.seconds,
                process=stamp.process,
                counts=outcome.counts,
                why=self.why,
            ),
        )
        self.progress.end("done")
        return stamp


def _stamp_path(stage: Stage, ctx: Context, request: dict[str, Any]) -> str:
    return ctx.workspace.relative(stage_directory(ctx.workspace, stage, request) / "stage.json")
