"""The models beside LTX-2's own that a recipe's renderings run: which, where they are, and their hashes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ltxcore.config.recipe import Recipe
from ltxcore.memory.arrangement import StrategyUnavailable
from ltxcore.models.errors import ModelError
from ltxcore.models.files.diffusion_decoder import DECODER, decoder_of, no_decoder
from ltxcore.models.files.latent_upsampler import UPSAMPLER, upsampler_of
from ltxcore.models.files.locate_weights import find_adapter
from ltxcore.models.files.released import ReleasedModel
from ltxcore.models.files.standalone import Kind, Standalone, find_standalone
from ltxcore.models.files.tensor_file import read_tensor_file
from ltxcore.pipeline.base.context import Context


def named_models(recipe: Recipe) -> list[tuple[Kind, str]]:
    """The models that the recipe names and its renderings run, as they are written."""
    model = recipe.model
    named = (
        (UPSAMPLER, model.latent_upsampler if _in_two_stages(recipe) else None),
        (DECODER, model.diffusion_decoder if _is_diffusion_decoded(recipe) else None),
    )
    return [(kind, name) for kind, name in named if name is not None]


def fetch_models(recipe: Recipe, token: str | None = None) -> None:
    """Download those that are not on this machine.

    Args:
        token: of the hub. None: this machine's own.

    Raises:
        ModelError: one is neither here nor on the hub.
    """
    for kind, name in named_models(recipe):
        find_standalone(kind, name, fetch=True, token=token)


def models_are_here(recipe: Recipe) -> bool:
    """Whether every one that the recipe names is on this machine."""
    try:
        for kind, name in named_models(recipe):
            find_standalone(kind, name, fetch=False)
    except ModelError:
        return False
    return True


def upsampler(ctx: Context) -> Standalone | None:
    """The latent upsampler, where renderings have a second stage.

    Raises:
        ModelError: it is not here, or does not fit the model.
    """
    return upsampler_of(ctx.recipe.model, ctx.source) if _in_two_stages(ctx.recipe) else None


def diffusion_decoder(ctx: Context) -> Standalone | None:
    """The diffusion decoder, where it makes the pictures.

    Raises:
        ModelError: it is not here, or does not fit the model.
    """
    return decoder_of(ctx.recipe.model, ctx.source) if _is_diffusion_decoded(ctx.recipe) else None


def _is_diffusion_decoded(recipe: Recipe) -> bool:
    return recipe.validation.decoder == "diffusion" and not recipe.validation.validation_disable


def _in_two_stages(recipe: Recipe) -> bool:
    return recipe.validation.upscale > 1 and not recipe.validation.validation_disable


def standalone_request(ctx: Context) -> dict[str, str]:
    """The content of each, for a request; nothing where there is none."""
    found = {"latent_upsampler": upsampler(ctx), "diffusion_decoder": diffusion_decoder(ctx)}
    return {name: m.fingerprint(ctx.workspace.models) for name, m in found.items() if m is not None}


@dataclass(frozen=True)
class Size:
    """What the memory plan has to know of such a model."""

    values: int = 0
    """Parameters."""
    channels: int = 0
    """Of its largest feature maps."""


def upsampler_size(ctx: Context) -> Size:
    """That of the upsampler's file; of a model that is planned and not here, as it is released.

    Raises:
        ModelError: as `upsampler`.
    """
    source = ctx.source
    if not _in_two_stages(ctx.recipe):
        return Size()
    if isinstance(source, ReleasedModel):
        return Size(_values(source, "latent_upsampler"), source.version.upsampler["mid_channels"])
    found = upsampler_of(ctx.recipe.model, source)
    return Size(found.values, int(found.config["mid_channels"]))


def decoder_size(ctx: Context) -> Size:
    """That of the diffusion decoder, likewise.

    Raises:
        ModelError: as `diffusion_decoder`.
        StrategyUnavailable: the version that is planned has none.
    """
    source = ctx.source
    if not _is_diffusion_decoded(ctx.recipe):
        return Size()
    if isinstance(source, ReleasedModel):
        released = source.version.diffusion_decoder
        if released is None:
            raise StrategyUnavailable(str(no_decoder(source.version)))
        return Size(_values(source, "diffusion_decoder"), released["decoder_stage_channels"][-1])
    found = decoder_of(ctx.recipe.model, source)
    return Size(found.values, int(found.config["decoder_stage_channels"][-1]))


def standalone_values(ctx: Context) -> int:
    """Parameters of all of them."""
    return upsampler_size(ctx).values + decoder_size(ctx).values


def _values(source: ReleasedModel, name: str) -> int:
    return sum(math.prod(shape) for shape in source.shapes(name).values())


def second_lora_bytes(ctx: Context) -> int:
    """Weights of the LoRA that is on in the second stage alone; 0 where it is on the hub still."""
    lora = ctx.recipe.validation.upscale_lora
    if lora is None or not _in_two_stages(ctx.recipe):
        return 0
    try:
        file = find_adapter(lora.path, fetch=False)
    except ModelError:
        return 0
    return sum(tensor.size_bytes for tensor in read_tensor_file(file).tensors.values())
