"""What the result of embed-text depends on."""

from __future__ import annotations

from typing import Any

from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import TEXT
from ltxcore.pipeline.base.stamp import Stamp
from ltxcore.pipeline.data.keys import TextSpace
from ltxcore.pipeline.data.prompts import all_texts
from ltxcore.store.fingerprint import fingerprint
from ltxcore.store.texts import TextStore


def request(ctx: Context) -> dict[str, Any]:
    """All that the text features depend on, as plain JSON."""
    texts = all_texts(ctx.recipe, ctx.require_snapshot(TEXT))
    return {"texts": fingerprint(texts), **space_request(ctx)}


def space_request(ctx: Context) -> dict[str, Any]:
    """The part of the request that is no caption: encoder, tokenizer, projection and arithmetic."""
    space = TextSpace.of(ctx.source, ctx.recipe)
    parts = {"text_encoder": space.encoder, "tokenizer": space.tokenizer, "projection": space.projection}
    return {**parts, **space.arithmetic}


def present(ctx: Context, stamp: Stamp) -> bool:
    """Whether the store still has the features of every text."""
    return not TextStore(ctx.store).missing(keyed_texts(ctx))


def needs(ctx: Context) -> dict[str, list[str]]:
    """The keys of the store that this request stands on."""
    return {"text": list(keyed_texts(ctx))}


def keyed_texts(ctx: Context) -> dict[str, str]:
    """Every text of the job by its key."""
    space = TextSpace.of(ctx.source, ctx.recipe)
    return {space.key(text).value: text for text in all_texts(ctx.recipe, ctx.snapshot)}


def to_do(ctx: Context, store: TextStore) -> list[str]:
    """The texts without features, in a fixed order."""
    keys = keyed_texts(ctx)
    return [keys[key] for key in store.missing(keys)]
