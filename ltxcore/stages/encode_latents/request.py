"""What the result of encode-latents depends on."""

from __future__ import annotations

from typing import Any

from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import LATENTS
from ltxcore.pipeline.base.stamp import Stamp
from ltxcore.pipeline.data.keys import LatentSpaces
from ltxcore.store.latents import LatentStore


def request(ctx: Context) -> dict[str, Any]:
    """All that the latents depend on, as plain JSON."""
    snapshot = ctx.require_snapshot(LATENTS)
    spaces = spaces_of(ctx, LatentStore(ctx.store))
    asked = {"vae": spaces.vae, "audio_vae": spaces.audio_vae, "dtype": spaces.dtype}
    tiled = spaces.tiled(snapshot.samples)
    keyframes = {} if spaces.keyframes is None else {"keyframes": list(spaces.keyframes.at)}
    return {"data": snapshot.data_id, **asked, **({"tiled": tiled} if tiled else {}), **keyframes}


def spaces_of(ctx: Context, store: LatentStore) -> LatentSpaces:
    """The latent spaces of the job's model and recipe."""
    return LatentSpaces.of(ctx.source, ctx.recipe, store.index)


def present(ctx: Context, stamp: Stamp) -> bool:
    """Whether the store still has the latents of every sample."""
    store = LatentStore(ctx.store)
    return not store.missing(all_keys(ctx, store))


def needs(ctx: Context) -> dict[str, list[str]]:
    """The keys of the store that this request stands on."""
    return {"latents": all_keys(ctx, LatentStore(ctx.store))}


def all_keys(ctx: Context, store: LatentStore) -> list[str]:
    """The keys of all samples' latents, pictures and sound."""
    spaces = spaces_of(ctx, store)
    return [key for sample in ctx.snapshot.samples for key in spaces.keys(sample)]


def quarantined(ctx: Context, store: LatentStore) -> dict[str, str]:
    """Sample id -> why it could not be encoded."""
    spaces = spaces_of(ctx, store)
    errors = {}
    for sample in ctx.snapshot.samples:
        reasons = [error for key in spaces.keys(sample) if (error := store.error(key)) is not None]
        if reasons:
            errors[sample.id] = reasons[0]
    return errors
