"""Checks whether a job can use CREPA, before the long stages begin."""

from __future__ import annotations

from ltxcore.config.errors import ConfigError, Problem
from ltxcore.config.recipe import Recipe
from ltxcore.models.errors import ModelError
from ltxcore.pipeline.base.context import Context

RECIPE = "the recipe"


def check_crepa(ctx: Context, *, audio_only: bool) -> None:
    """Refuse a recipe with CREPA for data without pictures, for a block that the model does not have, and for
    a sharded adapter.

    A model or teacher that is not on this machine yet is not asked.

    Raises:
        ConfigError: names the key and what to write instead.
    """
    if not ctx.recipe.crepa.crepa_enabled:
        return
    problems = [*_sharded(ctx.recipe), *_frozen(ctx.recipe), *([no_pictures()] if audio_only else [])]
    try:
        layers = int(ctx.source.config("transformer")["num_layers"])
    except ModelError:
        layers = None
    problems += [] if layers is None else _blocks(ctx.recipe, layers)
    if problems:
        raise ConfigError(RECIPE, problems)
    if layers is not None:
        index = ctx.recipe.crepa.crepa_block_index
        ctx.recipe.tread.require_whole(index, layers, "crepa.crepa_block_index")


def require_enabled(recipe: Recipe) -> None:
    """Refuse to compute the teacher's features for a recipe that would not use them.

    Raises:
        ConfigError: names the key.
    """
    if not recipe.crepa.crepa_enabled:
        message = "is false, so nothing would use the teacher's features; set it to true"
        raise ConfigError(RECIPE, [Problem("crepa.crepa_enabled", message)])


def no_pictures() -> Problem:
    """The fault of CREPA with sound alone."""
    return Problem(
        "crepa.crepa_enabled",
        "aligns what the model makes of pictures, and every dataset is sound alone; set it to false",
    )


def _sharded(recipe: Recipe) -> list[Problem]:
    if not recipe.processes.sharded:
        return []
    message = (
        "trains a projector that is whole in every process, but processes.accelerate_config shards the "
        "trained weights (FSDP); give a config with distributed_type MULTI_GPU, or set it to false"
    )
    return [Problem("crepa.crepa_enabled", message)]


def _frozen(recipe: Recipe) -> list[Problem]:
    if not recipe.given.video.frozen:
        return []
    message = (
        "aligns what the model makes of pictures, but conditioning.video.mode is frozen; set it to false"
    )
    return [Problem("crepa.crepa_enabled", message)]


def _blocks(recipe: Recipe, layers: int) -> list[Problem]:
    index = recipe.crepa.crepa_block_index
    if index < layers:
        return []
    message = f"is {index}, but the model's last block is {layers - 1}; give at most {layers - 1}"
    return [Problem("crepa.crepa_block_index", message)]
