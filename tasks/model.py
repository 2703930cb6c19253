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
from ltxcore.models.finding import find_adapter
from ltxcore.models.source import prepare_model
from ltxcore.models.teacher import prepare_teacher
from ltxcore.stages.context import Context
from ltxcore.stages.crepa_checks import check_crepa

Settings = TypeVar("Settings")


@task(name="prepare-model", cache_policy=NO_CACHE)
def prepare(ctx: Context) -> str:
    """See that the recipe's model, and what it renders with, are on this machine; return its directory.

    What is missing is made in a process of its own: writing the tiny model needs torch, and the parent
    flow never imports it.
    """
    for adapter in ctx.recipe.validation.adapter_paths:
        find_adapter(adapter, fetch=True)
    try:
        return str(ctx.source.root)
    except ModelError:
        _in_own_process(_prepare, ctx.recipe.model, ctx.workspace.models)
    return str(ctx.source.root)


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
    """What is done is told apart from the context, which may hold a model by now and cannot travel then."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        pool.submit(do, settings, models).result()


def _prepare(settings: ModelSettings, models: Path) -> None:
    prepare_model(settings, models)


def _prepare_teacher(settings: CrepaSettings, models: Path) -> None:
    prepare_teacher(settings, models)
