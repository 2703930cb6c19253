"""Flow train-ltx2: the whole pipeline, one child flow run in a process of its own for each stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.logging import get_run_logger

from flows.run_stage import run_stage
from flows.stages import STAGE_FLOWS
from ltxcore.config.overrides import Overrides
from ltxcore.jobs.checks.job_checks import check_clips
from ltxcore.jobs.pipeline import Turn, snapshot_of, training_turns
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import PROBE, RENDER, TRAIN, asked_stages
from tasks.checks import check
from tasks.hub import check_hub, may_be_published, push_to_hub
from tasks.model import prepare, prepare_crepa
from tasks.naming import name_at_start, name_run
from tasks.pipeline import begin_run, memory_retry, report_run, up_to_date
from tasks.run_page import live_page
from tasks.stage import context, run_folder, with_seeds


@flow(name="train-ltx2", flow_run_name=name_at_start)
def train_ltx2(
    workspace: str = "workspace",
    datasets: str = "datasets.yaml",
    recipe_file: str = "",
    overrides: Overrides = Overrides(),
    pipeline_run: str = "",
) -> None:
    """From a folder of clips to a trained LoRA and rendered videos.

    A stage whose result is in place is passed over; the others run one after another, each in its own
    process with its own memory.

    Args:
        workspace: directory of the store, the runs and the models.
        datasets: the dataset file, read when the run starts.
        recipe_file: what to train, how, in which memory, and what to render; read when the run starts. Empty:
            the defaults.
        overrides: values in place of the recipe's, for this run.
        pipeline_run: a name for this run's folder. Empty: the id of the flow run.
    """
    ctx = context(workspace, recipe_file, pipeline_run=pipeline_run, overrides=overrides, datasets=datasets)
    run = run_folder(ctx, pipeline_run)
    with ctx.workspace.going_on(run):
        ctx = with_seeds(ctx, run)
        shared = {"workspace": workspace, "pipeline_run": run.name}
        begin_run(ctx, run)
        name_run(ctx)
        with live_page(ctx, run):
            run_stages(ctx, run, shared, datasets)


def run_stages(ctx: Context, run: Path, shared: dict[str, Any], datasets: str) -> None:
    """Check the job, run what is not up to date, and report; `shared` are the parameters of every stage."""
    recipe = ctx.recipe
    check(ctx)
    if recipe.hub.push_to_hub:
        check_hub(ctx)
    prepare(ctx)
    # Before hours of encoding, and as soon as the model says how many blocks it has.
    check(ctx)
    if recipe.crepa.crepa_enabled:
        prepare_crepa(ctx)
    for stage in asked_stages(recipe):
        if stage is not PROBE:
            ctx = replace(ctx, snapshot_id=snapshot_of(ctx, run))
            check_clips(ctx)
        if up_to_date(stage, ctx, run):
            continue
        extra = {"datasets": datasets} if stage is PROBE else {"snapshot": ctx.snapshot_id}
        get_run_logger().info("%s starts in a process of its own", stage.name)
        for turn in training_turns(ctx) if stage is TRAIN else [Turn(stage, ctx)]:
            if turn.stage is RENDER and turn.ctx.step:
                message = "the training pauses: its samples of step %d are rendered"
                get_run_logger().info(message, turn.ctx.step)
            parameters = {**shared, **extra, **turn.parameters}
            again = memory_retry(turn.stage, turn.ctx)
            run_stage(STAGE_FLOWS[turn.stage.name], parameters, again=again, part=turn.part)
    report_run(ctx, run)
    if recipe.hub.push_to_hub and may_be_published(ctx, run):
        push_to_hub(ctx, run)
