"""Checks whether a recipe's renderings are possible."""

from __future__ import annotations

from ltxcore.models.errors import ModelError
from ltxcore.models.files.locate_weights import check_adapter, find_adapter
from ltxcore.models.lora.base_version import require_version
from ltxcore.models.lora.fitting import require_adapter
from ltxcore.models.lora.header import read_header
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.here import Here
from ltxcore.stages.render_validation.runs import renderings
from ltxcore.validation.rendering_settings import settings_of_renderings


def check_size(ctx: Context, here: Here) -> None:
    """Refuse a size that cannot be rendered.

    Raises:
        ValueError: names the key.
    """
    settings_of_renderings(ctx.recipe.validation)


def check_names(ctx: Context, here: Here) -> None:
    """Refuse prompts and labels that give two renderings one name.

    Raises:
        ValueError: names them.
    """
    plans = settings_of_renderings(ctx.recipe.validation)
    renderings(ctx, ctx.recipe.validation.validation_prompts, plans)


def check_stg_blocks(ctx: Context, here: Here) -> None:
    """Refuse blocks that the transformer does not have, where it is here.

    Raises:
        ValueError: names the key.
    """
    asked = ctx.recipe.validation.validation_stg_blocks
    try:
        layers = int(ctx.source.config("transformer")["num_layers"])
    except ModelError:
        return
    beyond = [block for block in asked or () if block >= layers]
    if beyond:
        raise ValueError(
            f"validation_stg_blocks names block {beyond[0]}, and the transformer has {layers}; write blocks "
            f"from 0 to {layers - 1}"
        )


def check_adapters(ctx: Context, here: Here) -> None:
    """Refuse adapters of another kind or for another model, from their headers.

    One that is still on the hub is looked at when it is here.

    Raises:
        ModelError: it is neither a file nor the name of one on the hub.
        AdapterError: it does not fit, or says that it is for another version.
    """
    for name in ctx.recipe.validation.adapter_paths:
        check_adapter(name)
        try:
            file = find_adapter(name, fetch=False)
        except ModelError:
            continue
        try:
            source = ctx.source
        except ModelError:
            require_adapter(file, None)
            continue
        require_adapter(file, source.shapes("transformer"))
        require_version(read_header(file), source.version.name)
