"""What a training step holds beside the weights.

The factors were counted on the real class at full size with autograd's own record of what it keeps, on fake
tensors under CUDA's rules (`bench.fake_block`; a test counts again): per token and block, in values of the
stream's width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

from ltxcore.config.tread_settings import TreadSettings
from ltxcore.memory.planner.sizes import Tokens, TransformerSizes
from ltxcore.memory.planner.tread_tokens import BlockTokens, tokens_by_block


@dataclass(frozen=True)
class Factors:
    """Values a token and block, in values of the stream's width."""

    video: float
    audio: float
    text: float


PLAIN = Factors(24.2, 27.6, 4.6)
GATED = Factors(2.6, 1.5, 1.5)
"""What the gates of 2.3's attentions add: their outputs before the gate, and modulated text."""
DROPOUT = Factors(15.5, 20.4, 5.4)
"""What LoRA dropout adds: a masked copy of each input, and the mask, in the input's type on the CPU."""
INFERENCE = Factors(18.2, 11.1, 1.9)
"""The most that is alive at once in a forward pass without gradients, all else included."""
PER_TOKEN_TIMES = 10
"""What times of shape [B, N] add a video token, in values of the computing type."""
TABLE_BYTES = 4
"""Of a value of the rotary tables, which are float32 always."""
# Gradients and temporary values while the feed-forward, four times as wide, is taken backwards.
BACKWARD_WIDTHS = 12
# Modulations, projections and rotary tables that live for the whole step, and what times a token add there.
OUTSIDE_WIDTHS, OUTSIDE_PER_TOKEN_WIDTHS = 6, 24


@dataclass(frozen=True)
class Activations:
    """How the activations of a step are kept."""

    tokens: Tokens
    batch: int
    value_bytes: int = 2
    dropout: bool = False
    per_token_times: bool = False
    tread: TreadSettings = field(default_factory=TreadSettings)
    given_tokens: int = 0
    """The most video tokens of a sample that may be given, which no route passes by."""

    def block_bytes(self, sizes: TransformerSizes, at: BlockTokens | None = None) -> int:
        """What one block keeps for backward.

        On a route it computes on a part of the tokens, `at`. Their rotary tables are taken out for every
        block anew: for K tokens B·K·(D + D_audio) float32 values, since a cosine and a sine for each half of
        a head come to the width of the video's own attention, and of those between video and sound. The first
        block of a route also holds on to the whole stream, to put back what has passed by.
        """
        at = at or BlockTokens(self.tokens.video)
        factors = [PLAIN, *([GATED] if sizes.gated else []), *([DROPOUT] if self.dropout else [])]
        video = sum(f.video for f in factors)
        video += PER_TOKEN_TIMES if self.per_token_times else 0
        tables = TABLE_BYTES * self.batch * at.video * (sizes.width + sizes.audio_width) if at.routed else 0
        whole = self.batch * self.tokens.video * sizes.width * self.value_bytes if at.entry else 0
        return int(
            tables
            + whole
            + self.value_bytes
            * self.batch
            * (
                video * at.video * sizes.width
                + sum(f.audio for f in factors) * self.tokens.audio * sizes.audio_width
                + sum(f.text for f in factors) * self.tokens.text * sizes.width
            )
        )

    def step_bytes(self, sizes: TransformerSizes, checkpointed: int) -> int:
        """The peak of a step whose first `checkpointed` blocks are computed anew in backward.

        The others' activations are gone by the time the first recomputation begins.

        Raises:
            ConfigError: a route of TREAD leaves the model.
        """
        blocks = _by_block(self, sizes)
        inputs = sum(block.input_bytes for block in blocks[:checkpointed])
        anew = max((block.kept_bytes for block in blocks[:checkpointed]), default=0)
        kept = sum(block.kept_bytes for block in blocks[checkpointed:])
        return inputs + max(anew, kept) + self._backward_bytes(sizes) + self._outside_bytes(sizes)

    def rendering_bytes(self, sizes: TransformerSizes) -> int:
        """The peak of one forward pass without gradients, of all blocks: each leaves nothing behind."""
        return int(
            self.value_bytes
            * self.batch
            * (
                INFERENCE.video * self.tokens.video * sizes.width
                + INFERENCE.audio * self.tokens.audio * sizes.audio_width
                + INFERENCE.text * self.tokens.text * sizes.width
            )
        )

    def input_bytes(self, sizes: TransformerSizes, at: BlockTokens) -> int:
        """What a block that is computed anew is given: both streams, the whole one at a route's beginning."""
        video = self.tokens.video if at.entry else at.video
        return self._stream_bytes(sizes, video)

    def _stream_bytes(self, sizes: TransformerSizes, video: int | None = None) -> int:
        """Both streams, once, of all video tokens or of this many."""
        tokens = self.tokens.video if video is None else video
        values = tokens * sizes.width + self.tokens.audio * sizes.audio_width
        return self.batch * self.value_bytes * values

    def _backward_bytes(self, sizes: TransformerSizes) -> int:
        return BACKWARD_WIDTHS * self._stream_bytes(sizes)

    def _outside_bytes(self, sizes: TransformerSizes) -> int:
        widths = OUTSIDE_WIDTHS + (OUTSIDE_PER_TOKEN_WIDTHS if self.per_token_times else 0)
        text = 2 * self.batch * self.tokens.text * (sizes.width + sizes.audio_width) * self.value_bytes
        return widths * self._stream_bytes(sizes) + text


@dataclass(frozen=True)
class _Block:
    kept_bytes: int
    input_bytes: int


@cache
def _by_block(activations: Activations, sizes: TransformerSizes) -> tuple[_Block, ...]:
    spans = activations.tread.spans(sizes.blocks)
    found = tokens_by_block(activations.tokens.video, activations.given_tokens, spans, sizes.blocks)
    each = {
        at: _Block(activations.block_bytes(sizes, at), activations.input_bytes(sizes, at))
        for at in set(found)
    }
    return tuple(each[at] for at in found)
