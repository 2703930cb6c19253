"""Checks whether a recipe's renderings are possible."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ltxcore.config.model_settings import ModelSettings
from ltxcore.models.errors import ModelError
from ltxcore.models.files.diffusion_decoder import (
    DECODER,
    decoder_of,
    missing_decoder,
    no_decoder,
    open_decoder,
    smallest_rendering,
)
from ltxcore.models.files.latent_upsampler import UPSAMPLER, missing_upsampler, open_upsampler, upsampler_of
from ltxcore.models.files.locate_weights import check_adapter, find_adapter
from ltxcore.models.files.released import version_asked
from ltxcore.models.files.source import ModelSource
from ltxcore.models.files.standalone import Kind, Standalone, check_name, find_standalone
from ltxcore.models.lora.base_version import require_version
from ltxcore.models.lora.fitting import require_adapter
from ltxcore.models.lora.header import read_header
from ltxcore.models.version import Version
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
    model = ctx.recipe.model
    if (version := _yet_to_come(ctx)) is not None and model.latent_upsampler is None:
        raise missing_upsampler(version, f"what is downloaded of {model.pretrained_model_name_or_path}")
    _check_standalone(ctx, UPSAMPLER, model.latent_upsampler, open_upsampler, upsampler_of)


def check_decoder(ctx: Context, here: Here) -> None:
    """Refuse a diffusion decoder that the version does not have, that is not there or does not fit, and
    renderings that are too small for it.

    What is still on the hub is looked at when it is here.

    Raises:
        ModelError: there is no decoder, or it is another thing; says what to write.
        ValueError: a rendering is too short or too small, or all data is sound.
    """
    settings = ctx.recipe.validation
    if settings.decoder == "conv" or settings.validation_disable:
        return
    if settings.validation_modality == "auto" and not here.alone and ctx.datasets.audio_only:
        raise ValueError(
            f"validation.decoder: {settings.decoder} makes pictures, and all data is sound, of which none "
            "are rendered; leave it out, or write validation_modality: both"
        )
    model = ctx.recipe.model
    if (version := _yet_to_come(ctx)) is not None:
        if version.diffusion_decoder is None:
            raise no_decoder(version)
        if model.diffusion_decoder is None:
            raise missing_decoder(version, f"what is downloaded of {model.pretrained_model_name_or_path}")
    found = _check_standalone(ctx, DECODER, model.diffusion_decoder, open_decoder, decoder_of)
    if found is None:
        return
    frames, edge = smallest_rendering(found.config)
    for plan in settings_of_renderings(settings):
        if plan.num_frames < frames or min(plan.final_size) < edge:
            width, height = plan.final_size
            raise ValueError(
                f"a rendering of {width}x{height} and {plan.num_frames} frames is too small for the "
                f"diffusion decoder, which takes {frames} frames of {edge}x{edge} at least; enlarge "
                "validation_resolution or validation_num_video_frames, or write decoder: conv"
            )


def _yet_to_come(ctx: Context) -> Version | None:
    """The version of a model that is downloaded later; None where it is here, or nobody knows."""
    try:
        ctx.source  # noqa: B018 - whether it is here
    except ModelError:
        return version_asked(ctx.recipe.model)
    return None


def _check_standalone(
    ctx: Context,
    kind: Kind,
    name: str | None,
    open_it: Callable[[Path], Standalone],
    of_model: Callable[[ModelSettings, ModelSource], Standalone],
) -> Standalone | None:
    """The model that is named, or the model's own; None where something is not on this machine yet."""
    if name is not None:
        check_name(kind, name)
        if (path := _on_this_machine(kind, name)) is None:
            return None
        open_it(path)
    try:
        source = ctx.source
    except ModelError:
        return None
    return of_model(ctx.recipe.model, source)


def _on_this_machine(kind: Kind, name: str) -> Path | None:
    """Where it is; None for one that is still on the hub.

    Raises:
        ModelError: what is here has none, or it is on the hub and this machine is told to stay offline.
    """
    from huggingface_hub import constants

    try:
        return find_standalone(kind, name, fetch=False)
    except ModelError:
        if Path(name).expanduser().exists() or constants.HF_HUB_OFFLINE:
            raise
        return None
