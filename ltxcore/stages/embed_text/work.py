"""embed-text: captions and prompts through Gemma and the feature extractor, real tokens only."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from ltxcore.pipeline.base.batches import batches_of_tokens, in_batches
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.stamp import Outcome
from ltxcore.pipeline.base.work import Assignment, Place, Result, Work, loaded
from ltxcore.pipeline.data.keys import TextSpace
from ltxcore.pipeline.plan.arrangements import group_settings
from ltxcore.stages.embed_text.memory import GROUP_OFFLOAD, LAYER_BY_LAYER, LAYERED_TOKENS
from ltxcore.stages.embed_text.request import keyed_texts, to_do
from ltxcore.store.bf16 import to_bits
from ltxcore.store.fingerprint import fingerprint
from ltxcore.store.texts import Embedded, TextStore

logger = logging.getLogger(__name__)

# Captions of one Arrow file, committed together.
BATCH_CAPTIONS = 128
# The same where Gemma is read once for them; `LAYERED_TOKENS` bounds them too.
LAYERED_CAPTIONS = 256


class Embedder:
    """Gemma and the feature extractor, loaded once, and the store that they fill."""

    def __init__(self, ctx: Context, device: str) -> None:

        from ltxcore.memory.streaming.group_offload import offload_layers
        from ltxcore.models.files.loading import load_text_encoder, load_tokenizer
        from ltxcore.models.text.caption_encoder import CaptionEncoder, load_feature_extractor
        from ltxcore.models.text.gemma_layers import GemmaLayers, LayeredCaptionEncoder
        from ltxcore.models.torch_types import torch_type

        self.ctx = ctx
        self.space = TextSpace.of(ctx.source, ctx.recipe)
        self.store = TextStore(ctx.store)
        self.encoder: CaptionEncoder | LayeredCaptionEncoder
        max_tokens = ctx.source.text_max_tokens
        dtype = torch_type(self.space.dtype)
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
        """Captions that are committed together; layer by layer, Gemma is read once for each batch."""
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


class EmbedText(Work[Sequence[str]]):
    """The captions and prompts of a snapshot that have no features yet."""

    counted, doing = "captions", "captions through Gemma"
    loading, unit = "load-text-encoder", "embed-batch"

    def __init__(self, asked: Assignment) -> None:
        super().__init__(asked)
        self._waiting = to_do(self.ctx, TextStore(self.ctx.store))
        self._embedder: Embedder | None = None
        self._cut = 0

    def total(self) -> int:
        return len(self._waiting)

    def load(self, place: Place) -> None:
        super().load(place)
        self._embedder = Embedder(self.ctx, place.device)

    def units(self) -> Iterator[Sequence[str]]:
        return loaded(self._embedder).batches(self._waiting)

    def do(self, unit: Sequence[str]) -> None:
        self._cut += loaded(self._embedder).embed_batch(unit)
        self.asked.progress.advance(len(unit))

    def outcome(self) -> Result:
        total, done = len(keyed_texts(self.ctx)), len(self._waiting)
        counts = {"captions": total, "done": done, "hits": total - done, "cut": self._cut}
        return Result(Outcome(counts=counts))


WORK = EmbedText
