"""What the memory keys ask for and this machine, or this model, cannot do."""

from __future__ import annotations

import os

from ltxcore.memory.arrangement import StrategyUnavailable
from ltxcore.models.errors import ModelError
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.here import Here
from ltxcore.pipeline.plan.arrangements import forced_by, group_settings, require_compilable, require_strategy

GROUP_OFFLOAD = "group_offload"


def check_strategy(ctx: Context, here: Here) -> None:
    """Refuse a strategy of the transformer that this machine cannot have.

    Raises:
        StrategyUnavailable: names the key.
    """
    require_strategy(ctx.recipe.memory, ctx.recipe.model.base_model_precision, here.device)


def check_blocks(ctx: Context, here: Here) -> None:
    """Refuse more blocks than the model has, where it is here.

    Raises:
        StrategyUnavailable: names the key.
    """
    try:
        blocks = int(ctx.source.config("transformer")["num_layers"])
    except ModelError:
        return
    forced_by(ctx.recipe.memory, blocks, ctx.recipe.model.base_model_precision, here.device)


def check_text_encoder(ctx: Context, here: Here) -> None:
    """Refuse a way of reading Gemma that this machine cannot have.

    Raises:
        StrategyUnavailable: names the key.
    """
    memory = ctx.recipe.memory
    if memory.ramtorch_text_encoder and here.device != "cuda":
        raise StrategyUnavailable(
            "ramtorch_text_encoder keeps Gemma out of a CUDA device's memory, and this machine has no such "
            "device; leave it out, or write model.text_encoder_loading: layer_by_layer"
        )
    if ctx.recipe.model.text_encoder_loading != GROUP_OFFLOAD:
        return
    groups = group_settings(memory)
    if groups.use_stream and here.device != "cuda":
        raise StrategyUnavailable(
            "group_offload_use_stream needs a CUDA device, and this machine has none; leave it out"
        )
    if groups.disk is not None:
        raise StrategyUnavailable(
            "group_offload_to_disk_path is for the transformer; Gemma is read from its own files with "
            "model.text_encoder_loading: layer_by_layer"
        )


def check_compilation(ctx: Context, here: Here) -> None:
    """Refuse to compile weights that are streamed or sharded.

    Raises:
        StrategyUnavailable: names the keys.
    """
    require_compilable(ctx.recipe)


def check_group_files(ctx: Context, here: Here) -> None:
    """Refuse a directory for the groups that nothing can be written into.

    Raises:
        StrategyUnavailable: names the key.
    """
    memory = ctx.recipe.memory
    path = memory.group_offload_to_disk_path
    if path is None or memory.forced != GROUP_OFFLOAD:
        return
    place = path.expanduser().absolute()
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise StrategyUnavailable(
            f"group_offload_to_disk_path is {path}, but nothing can be written in {there}; give a directory "
            "that may be written to"
        )
