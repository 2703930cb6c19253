"""The models beside LTX-2's own that a recipe's renderings run: which, where they are, and their hashes."""

from __future__ import annotations

from ltxcore.config.recipe import Recipe
from ltxcore.models.errors import ModelError
from ltxcore.models.files.latent_upsampler import UPSAMPLER, upsampler_of
from ltxcore.models.files.standalone import Kind, Standalone, find_standalone
from ltxcore.pipeline.base.context import Context


def named_models(recipe: Recipe) -> list[tuple[Kind, str]]:
    """The models that the recipe names and its renderings run, as they are written."""
    named = recipe.model.latent_upsampler
    return [(UPSAMPLER, named)] if named and _in_two_stages(recipe) else []


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


def _in_two_stages(recipe: Recipe) -> bool:
    return recipe.validation.upscale > 1 and not recipe.validation.validation_disable


def standalone_request(ctx: Context) -> dict[str, str]:
    """The content of each, for a request; nothing where there is none."""
    found = {"latent_upsampler": upsampler(ctx)}
    return {name: m.fingerprint(ctx.workspace.models) for name, m in found.items() if m is not None}


def standalone_values(ctx: Context) -> int:
    """Parameters of all of them."""
    found = upsampler(ctx)
    return 0 if found is None else found.values
