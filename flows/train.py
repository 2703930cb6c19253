"""Flow train-ltx2: the whole pipeline, one child flow run in a process of its own for each stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import Flow, flow
from prefect.logging import get_run_logger

from flows.embed_frames import embed_frames
from flows.embed_text import embed_text
from flows.encode_latents import encode_latents
from flows.probe_media import probe_media
from flows.render_validation import render_validation
from flows.run_stage import run_stage
from flows.split_audio import split_audio
from flows.train_lora import train_lora
from ltxcore.config.recipe import Recipe
from ltxcore.stages.context import Context
from ltxcore.stages.contract import PROBE, RENDER, TRAIN, asked_stages
from ltxcore.stages.crepa_checks import check_crepa
from ltxcore.stages.held_out import check_held_out
from ltxcore.stages.rendered_lora import training_directory
from ltxcore.stages.sample_steps import reached_step, sample_steps, waiting_steps
from ltxcore.stages.training_checks import check_training
from ltxcore.store.locks import in_use
from tasks.hub import check_hub, push_to_hub
from tasks.model import prepare, prepare_crepa
from tasks.pipeline import begin_run, is_done, memory_retry, report_run, snapshot_of, up_to_date
from tasks.stage import context, run_folder

STAGE_FLOWS: dict[str, Flow[..., Any]] = {
    stage_flow.name: stage_flow
    for stage_flow in (
        probe_media,
        split_audio,
        encode_latents,
        embed_text,
        embed_frames,
        train_lora,
        render_validation,
    )
}


@flow(name="train-ltx2")
def train_ltx2(
    workspace: str = "workspace",
    datasets: str = "datasets.yaml",
    recipe: Recipe = Recipe(),
    pipeline_run: str = "",
) -> None:
    """From a folder of clips to a trained LoRA and rendered videos.

    A stage whose result is in place is passed over; the others run one after another, each in its own
    process with its own memory.

    Args:
        workspace: directory of the store, the runs and the models.
        datasets: the dataset file.
        recipe: what to train, how, in which memory, and what to render.
        pipeline_run: a name for this run's folder. Empty: the id of the flow run.
    """
    ctx = context(workspace, recipe, datasets=datasets)
    run = run_folder(ctx, pipeline_run)
    with in_use(ctx.workspace.run_lock(run)):
        shared = {"workspace": workspace, "recipe": recipe, "pipeline_run": run.name}
        run_stages(ctx, run, shared, datasets)


def run_stages(ctx: Context, run: Path, shared: dict[str, Any], datasets: str) -> None:
    """Check the job, run what is not up to date, and report; `shared` are the parameters of every stage."""
    recipe = ctx.recipe
    begin_run(ctx, run)
    if recipe.hub.push_to_hub:
        check_hub(ctx)
    check_crepa(ctx, audio_only=ctx.datasets.audio_only)
    prepare(ctx)
    # Before hours of encoding, and as soon as the model says how many blocks it has.
    check_training(ctx, audio_only=ctx.datasets.audio_only)
    if recipe.crepa.crepa_enabled:
        prepare_crepa(ctx)
    for stage in asked_stages(recipe):
        if stage is not PROBE:
            ctx = replace(ctx, snapshot_id=snapshot_of(ctx, run))
            check_held_out(ctx)
        if up_to_date(stage, ctx, run):
            continue
        extra = {"datasets": datasets} if stage is PROBE else {"snapshot": ctx.snapshot_id}
        get_run_logger().info("%s starts in a process of its own", stage.name)
        if stage is TRAIN:
            train_with_samples(ctx, {**shared, **extra})
        else:
            run_stage(STAGE_FLOWS[stage.name], {**shared, **extra}, again=memory_retry(stage, ctx))
    report_run(ctx, run)
    if recipe.hub.push_to_hub:
        push_to_hub(ctx, run)


def train_with_samples(ctx: Context, parameters: dict[str, Any]) -> None:
    """Train, with a pause after each step that is sampled: one process has the transformer at a time.

    The training goes on from the checkpoint of its pause, to the same bits. What is done already, in this
    run or an earlier one, is passed over.
    """
    for step in sample_steps(ctx.recipe):
        sampling, training = replace(ctx, step=step), training_directory(ctx)
        waits = step in waiting_steps(training)
        if is_done(RENDER, sampling) or (not waits and step <= reached_step(training)):
            continue
        if not waits:
            run_stage(train_lora, {**parameters, "pause_at": step}, again=memory_retry(TRAIN, ctx))
        if is_done(TRAIN, ctx):
            return
        get_run_logger().info("the training pauses: its samples of step %d are rendered", step)
        run_stage(render_validation, {**parameters, "step": step}, again=memory_retry(RENDER, sampling))
    run_stage(train_lora, parameters, again=memory_retry(TRAIN, ctx))
