"""embed-text: captions and prompts through Gemma and the feature extractor, real tokens only."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from ltxcore.stages.batches import batches_of_tokens, in_batches
from ltxcore.stages.context import Context
from ltxcore.stages.contract import TEXT
from ltxcore.stages.keys import TextSpace
from ltxcore.stages.memory_plans import GROUP_OFFLOAD, LAYER_BY_LAYER, LAYERED_TOKENS
from ltxcore.stages.placing import group_settings
from ltxcore.stages.prompts import all_texts
from ltxcore.stages.stamp import Outcome, Stamp
from ltxcore.store.bf16 import to_bits
from ltxcore.store.fingerprint import fingerprint
from ltxcore.store.texts import Embedded, TextStore

logger = logging.getLogger(__name__)

# Captions of one Arrow file, committed together.
BATCH_CAPTIONS = 128
# The same where Gemma is read once for them; `LAYERED_TOKENS` bounds them too.
LAYERED_CAPTIONS = 256


def request(ctx: Context) -> dict[str, Any]:
    texts = all_texts(ctx.recipe, ctx.require_snapshot(TEXT))
    return {"texts": fingerprint(texts), **space_request(ctx)}


def space_request(ctx: Context) -> dict[str, Any]:
    space = TextSpace.of(ctx.source)
    return {"text_encoder": space.encoder, "tokenizer": space.tokenizer, "projection": space.projection}


def present(ctx: Context, stamp: Stamp) -> bool:
    return not TextStore(ctx.store).missing(_keys(ctx))


def needs(ctx: Context) -> dict[str, list[str]]:
    """The keys of the store that this request stands on."""
    return {"text": list(_keys(ctx))}


def _keys(ctx: Context) -> dict[str, str]:
    space = TextSpace.of(ctx.source)
    return {space.key(text).value: text for text in all_texts(ctx.recipe, ctx.snapshot)}


def to_do(ctx: Context, store: TextStore) -> list[str]:
    """The texts without features, in a fixed order."""
    keys = _keys(ctx)
    return [keys[key] for key in store.missing(keys)]


class Embedder:
    """Gemma and the feature extractor, loaded once, and the store that they fill."""

    def __init__(self, ctx: Context, device: str) -> None:
        import torch

        from ltxcore.memory.group_offload import offload_layers
        from ltxcore.models.gemma_layers import GemmaLayers, LayeredCaptionEncoder
        from ltxcore.models.loading import load_text_encoder, load_tokenizer
        from ltxcore.models.text import CaptionEncoder, load_feature_extractor

        self.ctx = ctx
        self.space = TextSpace.of(ctx.source)
        self.store = TextStore(ctx.store)
        self.encoder: CaptionEncoder | LayeredCaptionEncoder
        max_tokens, dtype = ctx.source.text_max_tokens, torch.bfloat16
        if ctx.recipe.model.text_encoder_loading == LAYER_BY_LAYER:
            gemma = GemmaLayers(ctx.source, dtype, device)
            extractor = load_feature_extractor(ctx.source, dtype, "cpu")
            self.encoder = LayeredCaptionEncoder(load_tokenizer(ctx.source), gemma, extractor, max_tokens)
        else:
            offloaded = ctx.recipe.model.text_encoder_loading == GROUP_OFFLOAD
            tokenizer, text_model = load_text_encoder(ctx.source, dtype, "cpu" if offloaded else device)
            if offloaded:
                offload_layers(text_model, device, group_settings(ctx.recipe.memory))
            extractor = load_feature_extractor(ctx.source, dtype, device)
            self.encoder = CaptionEncoder(tokenizer, text_model, extractor, max_tokens, device=device)

    def batches(self, captions: Sequence[str]) -> Iterator[Sequence[str]]:
        """Captions that are committed together; where Gemma is read layer by layer, once for each batch."""
        if self.ctx.recipe.model.text_encoder_loading == LAYER_BY_LAYER:
            return batches_of_tokens(captions, self.encoder.count_tokens, LAYERED_CAPTIONS, LAYERED_TOKENS)
        return in_batches(captions, BATCH_CAPTIONS)

    def embed_batch(self, captions: Sequence[str]) -> int:
        """Embed one batch of captions and commit it as one Arrow file. Returns how many were cut.

        Needs the caller to hold the writer's lock `text`.
        """
        rows = self._embed(captions)
        self.store.put(rows)
        cut = [row for row in rows if row.truncated_from]
        for row in cut:
            logger.warning(
                "a caption of %d tokens was cut to %d: %.60s…",
                row.truncated_from,
                len(row.video),
                row.caption,
            )
        return len(cut)

    def _embed(self, captions: Sequence[str]) -> list[Embedded]:
        features = self.encoder.encode(list(captions))
        keys = [self.space.key(caption) for caption in captions]
        return [
            Embedded(
                key=key.value,
                caption=caption,
                video=to_bits(feature.video),
                audio=None if feature.audio is None else to_bits(feature.audio),
                truncated_from=feature.truncated_from,
                # The caption itself is stored beside its features, and may be long.
                inputs={**key.inputs, "caption": fingerprint(caption)},
            )
            for key, caption, feature in zip(keys, captions, features, strict=True)
        ]


def outcome(ctx: Context, done: int, cut: int) -> Outcome:
    total = len(_keys(ctx))
    return Outcome(counts={"captions": total, "done": done, "hits": total - done, "cut": cut})
