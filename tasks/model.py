"""The model on this machine: found, written (the tiny one) or downloaded (a hub id) before it is needed."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from prefect import task
from prefect.cache_policies import NO_CACHE

from ltxcore.models.errors import ModelError
from ltxcore.models.finding import find_adapter
from ltxcore.models.source import prepare_model
from ltxcore.stages.context import Context


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
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            pool.submit(_prepare, ctx).result()
    return str(ctx.source.root)


def _prepare(ctx: Context) -> None:
    prepare_model(ctx.recipe.model, ctx.workspace.models)
