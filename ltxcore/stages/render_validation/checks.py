"""Checks whether a recipe's renderings are possible."""

from __future__ import annotations

from pathlib import Path

from ltxcore.models.errors import ModelError
from ltxcore.models.files.latent_upsampler import UPSAMPLER, open_upsampler, upsampler_of
from ltxcore.models.files.locate_weights import check_adapter, find_adapter
from ltxcore.models.files.standalone import check_name, find_standalone
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


def check_upscale(ctx: Context, here: Here) -> None:
    """Refuse a second stage without pictures, without an upsampler, or with one that does not fit.

    What is still on the hub is looked at when it is here.

    Raises:
        ModelError: there is no upsampler, or it is of another kind or model; says what to write.
        ValueError: all data is sound.
    """
    settings = ctx.recipe.validation
    if settings.upscale == 1 or settings.validation_disable:
        return
    if settings.validation_modality == "auto" and not here.alone and ctx.datasets.audio_only:
        raise ValueError(
            f"validation.upscale: {settings.upscale} doubles pictures, and all data is sound, of which none "
            "are rendered; leave it out, or write validation_modality: both"
        )
    name = ctx.recipe.model.latent_upsampler
    if name is not None:
        check_name(UPSAMPLER, name)
        if (path := _on_this_machine(name)) is None:
            return
        open_upsampler(path)
    try:
        source = ctx.source
    except ModelError:
        return
    upsampler_of(ctx.recipe.model, source)


def _on_this_machine(upsampler: str) -> Path | None:
    """Where it is; None for one that is still on the hub.

    Raises:
        ModelError: what is here has no upsampler.
    """
    try:
        return find_standalone(UPSAMPLER, upsampler, fetch=False)
    except ModelError:
        if Path(upsampler).expanduser().exists():
            raise
        return None
