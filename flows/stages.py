"""The flow of every stage. Prefect reads a form from the signature: own parameters mean an own function.

A deployment names a flow as `flows/stages.py:embed_text`: the stage's name with underscores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prefect import Flow, flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.gpu_lease import gpu_lease
from flows.interrupt import stop_on_sigterm
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import AUDIO, FRAMES, PROBE, RENDER, STAGES, TRAIN, Stage
from ltxcore.pipeline.base.work import Stopped, never
from ltxcore.stages.embed_frames.checks import require_enabled
from tasks.model import prepare_crepa
from tasks.naming import stage_run_name
from tasks.stage import context
from tasks.work import no_device, run_here


@contextmanager
def the_gpu() -> Iterator[Callable[[], bool]]:
    """A slot of the GPU."""
    with gpu_lease():
        yield never


@contextmanager
def the_gpu_until_sigterm() -> Iterator[Callable[[], bool]]:
    """A slot of the GPU, and from then on whether a SIGTERM has come."""
    with gpu_lease(), stop_on_sigterm() as should_stop:
        yield should_stop


@flow(name=PROBE.name, flow_run_name=stage_run_name)
def probe_media(
    workspace: str = "workspace",
    datasets: str = "datasets.yaml",
    recipe_file: str = "",
    pipeline_run: str = "",
) -> None:
    """Probe every file of the datasets and publish a snapshot: which are taken, which rejected and why.

    Args:
        workspace: directory of the store, the runs and the models.
        datasets: the dataset file.
        recipe_file: the recipe, whose `data` holds defaults of the datasets. Empty: the defaults.
        pipeline_run: the run of the pipeline that this belongs to. Empty: one of its own.
    """
    ctx = context(workspace, recipe_file, pipeline_run=pipeline_run, datasets=datasets)
    run_here(PROBE, ctx, pipeline_run)


@flow(name=AUDIO.name, flow_run_name=stage_run_name)
def split_audio(workspace: str = "workspace", snapshot: str = "latest", pipeline_run: str = "") -> None:
    """Cut the clips' sound at their frames, as 16 kHz stereo.

    Args:
        workspace: directory of the store, the runs and the models.
        snapshot: id of a snapshot of probe-media, or `latest`.
        pipeline_run: the run of the pipeline that this belongs to. Empty: one of its own.
    """
    ctx = context(workspace, pipeline_run=pipeline_run, snapshot=snapshot)
    run_here(AUDIO, ctx, pipeline_run)


@flow(name=TRAIN.name, flow_run_name=stage_run_name)
def train_lora(
    workspace: str = "workspace",
    recipe_file: str = "",
    snapshot: str = "latest",
    pipeline_run: str = "",
    pause_at: int = 0,
) -> State[None] | None:
    """Train the adapter on committed latents and text features, from the newest checkpoint on.

    A cancellation writes a checkpoint first; the next run of the same request continues there.

    Args:
        workspace: directory of the store, the runs and the models.
        recipe_file: the recipe: what to train and how. Empty: the defaults.
        snapshot: id of a snapshot of probe-media, or `latest`.
        pipeline_run: the run of the pipeline that this belongs to. Empty: one of its own.
        pause_at: stop after this step, with a checkpoint, so that its samples can be rendered, and where
            somebody asks for a sample before; -1: only there. 0: train to the end; the samples of the steps
            are then rendered by render-validation.
    """
    ctx = context(workspace, recipe_file, pipeline_run=pipeline_run, snapshot=snapshot)
    ended = run_here(TRAIN, ctx, pipeline_run, the_gpu_until_sigterm, pause_at)
    if isinstance(ended, Stopped) and ended.paused_at:
        return Completed(message=f"Paused after step {ended.paused_at} for samples")
    return None


@flow(name=RENDER.name, flow_run_name=stage_run_name)
def render_validation(
    workspace: str = "workspace",
    recipe_file: str = "",
    snapshot: str = "latest",
    pipeline_run: str = "",
    step: int = 0,
) -> None:
    """Render the prompts with the base and with the LoRA, side by side in a gallery.

    Args:
        workspace: directory of the store, the runs and the models.
        recipe_file: the recipe: what was trained, and what to render. Empty: the defaults. A run keeps the
            recipe that it began with.
        snapshot: id of a snapshot of probe-media, or `latest`.
        pipeline_run: the run of the pipeline that this belongs to. Empty: one of its own.
        step: render the LoRA that a training has left after this step. 0: that of the finished training.
    """
    ctx = context(workspace, recipe_file, pipeline_run=pipeline_run, snapshot=snapshot, step=step)
    run_here(RENDER, ctx, pipeline_run, the_gpu)


def flow_of(stage: Stage) -> Flow[..., Any]:
    """The flow of a stage that needs a recipe and a snapshot, and no parameter of its own."""

    def run(
        workspace: str = "workspace",
        recipe_file: str = "",
        snapshot: str = "latest",
        pipeline_run: str = "",
    ) -> None:
        ctx = context(workspace, recipe_file, pipeline_run=pipeline_run, snapshot=snapshot)
        PREPARED.get(stage.name, _nothing)(ctx)
        run_here(stage, ctx, pipeline_run, the_gpu if stage.pool == "gpu" else no_device)

    run.__name__ = run.__qualname__ = _attribute(stage)
    run.__doc__ = f"""{stage.title[0].upper()}{stage.title[1:]}.

    Args:
        workspace: directory of the store, the runs and the models.
        recipe_file: the recipe. Empty: the defaults.
        snapshot: id of a snapshot of probe-media, or `latest`.
        pipeline_run: the run of the pipeline that this belongs to. Empty: one of its own.
    """
    return flow(name=stage.name, flow_run_name=stage_run_name)(run)


def _prepare_teacher(ctx: Context) -> None:
    require_enabled(ctx.recipe)
    prepare_crepa(ctx)


def _nothing(ctx: Context) -> None:
    pass


def _attribute(stage: Stage) -> str:
    return stage.name.replace("-", "_")


PREPARED: Mapping[str, Callable[[Context], None]] = {FRAMES.name: _prepare_teacher}
"""What a stage that runs alone needs on this machine before it can be asked for."""
_WITH_OWN_PARAMETERS: Mapping[str, Flow[..., Any]] = {
    one.name: one for one in (probe_media, split_audio, train_lora, render_validation)
}
STAGE_FLOWS: dict[str, Flow[..., Any]] = {
    stage.name: _WITH_OWN_PARAMETERS.get(stage.name) or flow_of(stage) for stage in STAGES
}


def __getattr__(name: str) -> Flow[..., Any]:
    """A flow by the name that a deployment's entrypoint has for it."""
    for found in STAGE_FLOWS.values():
        if found.fn.__name__ == name:
            return found
    raise AttributeError(f"there is no flow {name!r} in {__name__}")
