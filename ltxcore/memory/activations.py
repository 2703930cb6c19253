"""What a training step holds beside the weights.

The factors were counted on the real class with autograd's own record of what it keeps (a test counts again):
per token and block, in values of the stream's width. Under autocast many of them are float32.
"""

from __future__ import annotations

from dataclasses import dataclass

from ltxcore.memory.sizes import Tokens, TransformerSizes


@dataclass(frozen=True)
class Factors:
    """Values a token and block, in units of the stream's width and of two bytes."""

    video: float
    audio: float
    text: float


BF16 = Factors(45, 56, 9.1)
FP32 = Factors(51.5, 69, 9.2)
DROPOUT = Factors(19, 30, 2)
"""What LoRA dropout adds: a masked copy of each input, and the mask."""
INFERENCE = Factors(18.2, 11.1, 1.9)
"""The most that is alive at once in a forward pass without gradients, all else included."""
PER_TOKEN_TIMES = 8
"""What times of shape [B, N] add a video token."""
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

    def block_bytes(self, sizes: TransformerSizes) -> int:
        """What one block keeps for backward."""
        base = BF16 if self.value_bytes == 2 else FP32
        factors = [base, DROPOUT] if self.dropout else [base]
        video = sum(f.video for f in factors) + (PER_TOKEN_TIMES if self.per_token_times else 0)
        return int(
            2
            * self.batch
            * (
                video * self.tokens.video * sizes.width
                + sum(f.audio for f in factors) * self.tokens.audio * sizes.audio_width
                + sum(f.text for f in factors) * self.tokens.text * sizes.width
            )
        )

    def step_bytes(self, sizes: TransformerSizes, checkpointed: int) -> int:
        """The peak of a step whose first `checkpointed` blocks are computed anew in backward.

        The others' activations are gone by the time the first recomputation begins.
        """
        block = self.block_bytes(sizes)
        kept = sizes.blocks - checkpointed
        inputs = self._stream_bytes(sizes) * checkpointed
        outside = self._outside_bytes(sizes)
        return inputs + block * max(kept, 1 if checkpointed else 0) + self._backward_bytes(sizes) + outside

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

    def _stream_bytes(self, sizes: TransformerSizes) -> int:
        """Both streams, once."""
        values = self.tokens.video * sizes.width + self.tokens.audio * sizes.audio_width
        return self.batch * self.value_bytes * values

    def _backward_bytes(self, sizes: TransformerSizes) -> int:
        return BACKWARD_WIDTHS * self._stream_bytes(sizes)

    def _outside_bytes(self, sizes: TransformerSizes) -> int:
        widths = OUTSIDE_WIDTHS + (OUTSIDE_PER_TOKEN_WIDTHS if self.per_token_times else 0)
        text = 2 * self.batch * self.tokens.text * (sizes.width + sizes.audio_width) * self.value_bytes
        return widths * self._stream_bytes(sizes) + text
