"""The model on this machine: found, written (the tiny one) or downloaded (a hub id) before it is needed."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from prefect import task
from prefect.cache_policies import NO_CACHE

from ltxcore.models.errors import ModelError
from ltxcore.models.source import prepare_model
from ltxcore.models.teacher import prepare_teacher
from ltxcore.stages.context import Context
from ltxcore.stages.crepa_checks import check_crepa


@task(name="prepare-model", cache_policy=NO_CACHE)
def prepare(ctx: Context) -> str:
    """See that the recipe's model is on this machine and return its directory.

    What is missing is made in a process of its own: writing the tiny model needs torch, and the parent
    flow never imports it.
    """
    try:
        return str(ctx.source.root)
    except ModelError:
        _in_own_process(_prepare, ctx)
    return str(ctx.source.root)


@task(name="prepare-teacher", cache_policy=NO_CACHE)
def prepare_crepa(ctx: Context) -> str:
    """See that the model has the block that CREPA aligns, and that its teacher is here: its directory."""
    check_crepa(ctx, audio_only=False)
    try:
        return str(ctx.teacher.root)
    except ModelError:
        _in_own_process(_prepare_teacher, ctx)
    return str(ctx.teacher.root)


def _in_own_process(do: Callable[[Context], None], ctx: Context) -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        pool.submit(do, ctx).result()


def _prepare(ctx: Context) -> None:
    prepare_model(ctx.recipe.model, ctx.workspace.models)


def _prepare_teacher(ctx: Context) -> None:
    prepare_teacher(ctx.recipe.crepa, ctx.workspace.models)
