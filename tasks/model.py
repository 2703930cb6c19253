"""The model on this machine: found, written (the tiny one) or downloaded (a hub id) before it is needed."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE

from ltxcore.config.crepa_settings import CrepaSettings
from ltxcore.config.model_settings import ModelSettings
from ltxcore.models.errors import ModelError
from ltxcore.models.files.locate_weights import find_adapter
from ltxcore.models.files.source import prepare_model
from ltxcore.models.lora.locate import is_mlflow
from ltxcore.models.teacher import prepare_teacher
from ltxcore.pipeline.base.context import Context
from ltxcore.stages.embed_frames.checks import check_crepa
from ltxcore.stages.render_validation.standalone_models import fetch_models, models_are_here
from ltxcore.tracking.fetch_lora import fetch_lora
from ltxcore.tracking.mlflow_run import tracking_of
from tasks.hub import hub_token

Settings = TypeVar("Settings")


@task(name="prepare-model", cache_policy=NO_CACHE)
def prepare(ctx: Context) -> str:
    """See that the recipe's model, and its LoRAs, are on this machine; return the model's directory.

    What is missing is made in a process of its own: writing the tiny model needs torch, and the parent
    flow never imports it.
    """
    for adapter in ctx.recipe.validation.adapter_paths:
        _on_this_machine(adapter)
    if not models_are_here(ctx.recipe):
        fetch_models(ctx.recipe, hub_token())
    first = ctx.recipe.lora.init_from
    if first is not None and is_mlflow(first):
        fetch_lora(first, ctx.workspace.models, tracking_of(ctx.recipe.tracking, ctx.workspace.mlflow))
    elif first is not None:
        _on_this_machine(first)
    try:
        return str(ctx.source.root)
    except ModelError:
        _in_own_process(_prepare, ctx.recipe.model, ctx.workspace.models)
    return str(ctx.source.root)


def _on_this_machine(adapter: str) -> None:
    """Download a LoRA that is not here; the token is only looked for then, and goes nowhere else."""
    try:
        find_adapter(adapter, fetch=False)
    except ModelError:
        find_adapter(adapter, fetch=True, token=hub_token())


@task(name="prepare-teacher", cache_policy=NO_CACHE)
def prepare_crepa(ctx: Context) -> str:
    """See that the model has the block that CREPA aligns, and that its teacher is here: its directory."""
    check_crepa(ctx, audio_only=False)
    try:
        return str(ctx.teacher.root)
    except ModelError:
        _in_own_process(_prepare_teacher, ctx.recipe.crepa, ctx.workspace.models)
    return str(ctx.teacher.root)


def _in_own_process(do: Callable[[Settings, Path], None], settings: Settings, models: Path) -> None:
    """The function and its arguments are passed separately from the context, which may hold a model and
    cannot be pickled then."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        pool.submit(do, settings, models).result()


def _prepare(settings: ModelSettings, models: Path) -> None:
    prepare_model(settings, models)


def _prepare_teacher(settings: CrepaSettings, models: Path) -> None:
    prepare_teacher(settings, models)
