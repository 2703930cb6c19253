"""A run of the whole pipeline, whoever starts its stages: how it begins, its order, how it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ltxcore.execution.drawn_seed import FINISHED
from ltxcore.execution.execution import find_result
from ltxcore.jobs.publish.finished_run import REQUEST_FILE, RunRequest
from ltxcore.jobs.report.run_summary import quarantined, read_summary
from ltxcore.jobs.report.write_pages import write_report
from ltxcore.memory.measure import measure_peaks
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import PROBE, RENDER, TRAIN, Stage
from ltxcore.pipeline.base.stamp import read_manifest, read_stamp
from ltxcore.pipeline.data.held_out import check_datasets
from ltxcore.stages.render_validation.rendered_lora import training_directory
from ltxcore.stages.train_lora.control import ON_REQUEST, decisions
from ltxcore.stages.train_lora.sample_steps import reached_step, sample_steps, waiting_steps
from ltxcore.store.blobs import write_json


def begin_run(ctx: Context, run: Path) -> None:
    """Refuse a broken dataset file before any stage starts, and note what this run was asked for.

    Raises:
        ConfigError: the datasets are wrong, or contradict the recipe.
    """
    check_datasets(ctx.recipe.evaluation, ctx.datasets)
    request = RunRequest(
        datasets=str(ctx.datasets.source),
        recipe=ctx.recipe.fingerprint_data(),
        workspace=str(ctx.workspace.root),
    )
    write_json(run / REQUEST_FILE, request.model_dump())
    ctx.workspace.note_newest_run(run)


def snapshot_of(ctx: Context, run: Path) -> str:
    """The snapshot that a run's probe-media made or found.

    Raises:
        RuntimeError: probe-media has not finished in this run.
    """
    entry = read_manifest(run, PROBE)
    if entry is None:
        raise RuntimeError(f"{run} has no {PROBE.name}.json although that stage completed")
    return str(read_stamp(ctx.workspace, entry).outcome.facts["snapshot"])


@dataclass(frozen=True)
class Turn:
    """A stage that is run next."""

    stage: Stage
    ctx: Context
    pause_at: int = 0
    """Of a training: the step after which it pauses; `ON_REQUEST`: only where somebody asks for a sample."""
    part: int = 0
    """Of a training: how often it has paused on request before, which tells turns apart."""

    @property
    def parameters(self) -> dict[str, Any]:
        """What its flow is given beside the parameters of every stage."""
        steps = {"step": self.ctx.step, "pause_at": self.pause_at}
        return {name: step for name, step in steps.items() if step}


def is_done(stage: Stage, ctx: Context) -> bool:
    """Whether a stage's result is in place, without a note of it in a run's folder."""
    return find_result(stage, ctx)[1] is not None


def training_turns(ctx: Context) -> Iterator[Turn]:
    """The training, with a pause after each step that is sampled: one process has the transformer at a time.

    Steps are sampled as the recipe says and where somebody asks for it meanwhile. Each turn is asked for when
    the one before it is over. The training goes on from the checkpoint of its pause, to the same bits. What
    is done already, in this run or an earlier one, is passed over.
    """
    training = training_directory(ctx)
    while True:
        for step in waiting_steps(training):
            if not is_done(RENDER, sampling := replace(ctx, step=step)):
                yield Turn(RENDER, sampling)
        yield Turn(TRAIN, ctx, _next_pause(ctx, training), decisions(training).pauses)
        if is_done(TRAIN, ctx):
            return


def _next_pause(ctx: Context, training: Path) -> int:
    """The next step that the recipe wants sampled."""
    for step in sample_steps(ctx.recipe):
        # At that very step the checkpoint still has what was to be rendered.
        if step >= reached_step(training) and not is_done(RENDER, replace(ctx, step=step)):
            return step
    return ON_REQUEST


def end_run(ctx: Context, run: Path) -> Path:
    """Write the page of the dataset with all that the stages had to tell, and note that the run is over.

    Returns:
        The page.
    """
    summary = read_summary(ctx.workspace, run)
    page, _ = write_report(ctx, quarantined={} if summary is None else quarantined(summary), run=run.name)
    write_json(run / FINISHED, {"process": os.getpid(), "peak_rss_bytes": measure_peaks().rss_bytes})
    return page
