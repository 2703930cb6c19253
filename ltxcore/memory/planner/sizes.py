"""Size and operations of a transformer, from the names and shapes of its weights."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property

from ltxcore.config.weight_precisions import NO_CHANGE, PRECISIONS, stays_exact

Shapes = Mapping[str, tuple[int, ...]]
BLOCKS = "transformer_blocks."
_BLOCK = re.compile(r"^transformer_blocks\.(\d+)\.")


@dataclass(frozen=True)
class Tokens:
    """The tokens of one sample."""

    video: int
    audio: int
    text: int

    @classmethod
    def of(cls, width: int, height: int, frames: int, *, fps: float, audio: bool, text: int) -> Tokens:
        """((F-1)/8+1)(H/32)(W/32) of video, 25 a second of sound."""
        video = ((frames - 1) // 8 + 1) * (height // 32) * (width // 32)
        return cls(video, max(1, round(frames / fps * 25)) if audio else 1, text)


# Compared by identity, so that figures can be remembered: a plan asks for each of them a thousand times.
@dataclass(frozen=True, eq=False)
class TransformerSizes:
    """A transformer, seen from outside.

    Args:
        shapes: name -> shape of every weight.
        width: of the video stream.
        audio_width: of the sound's.
    """

    shapes: Shapes
    width: int
    audio_width: int

    @cached_property
    def blocks(self) -> int:
        """How many blocks the transformer has."""
        found = [int(match[1]) for name in self.shapes if (match := _BLOCK.match(name))]
        return max(found, default=-1) + 1

    @cached_property
    def block(self) -> dict[str, tuple[int, ...]]:
        """Name within a block -> shape, for one of them: all are alike."""
        first = f"{BLOCKS}0."
        return {n.removeprefix(first): s for n, s in self.shapes.items() if n.startswith(first)}

    @cached_property
    def gated(self) -> bool:
        """Whether its attentions have a gate for each head."""
        return "attn1.to_gate_logits.weight" in self.block

    @cached_property
    def _outside_values(self) -> int:
        return sum(math.prod(shape) for name, shape in self.shapes.items() if not name.startswith(BLOCKS))

    @cached_property
    def values(self) -> int:
        """All parameters."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def block_bytes(self, precision: str, value_bytes: int) -> int:
        """One block: its linears' weights in the precision, the rest in the computing type."""
        return _block_bytes(self, precision, value_bytes)

    def outside_bytes(self, value_bytes: int) -> int:
        """Everything but the blocks, which no precision touches."""
        return value_bytes * self._outside_values

    def weights_bytes(self, precision: str, value_bytes: int) -> int:
        """Bytes of all weights: the blocks in `precision`, the others with `value_bytes` a value."""
        return self.blocks * self.block_bytes(precision, value_bytes) + self.outside_bytes(value_bytes)

    def adapter_values(self, suffixes: tuple[str, ...], rank: int) -> int:
        """Parameters of a LoRA on the linears whose name ends in `suffixes`, in whole name parts."""
        return rank * _adapter_edges(self, suffixes)

    def linears(self, suffixes: tuple[str, ...]) -> list[str]:
        """Names of the linears' weights that end in `suffixes`, in whole name parts."""
        wanted = tuple(f".{suffix}.weight" for suffix in suffixes)
        return [n for n, shape in self.shapes.items() if len(shape) == 2 and f".{n}".endswith(wanted)]

    def forward_flop(self, tokens: Tokens) -> float:
        """One forward pass of one sample: two operations a weight and token, and the attentions."""
        return _forward_flop(self, tokens)


@cache
def _block_bytes(sizes: TransformerSizes, precision: str, value_bytes: int) -> int:
    return sum(
        math.prod(shape) * value_bytes
        if precision == NO_CHANGE or stays_exact(name, shape)
        else PRECISIONS[precision].weight_bytes(shape, value_bytes)
        for name, shape in sizes.block.items()
    )


@cache
def _adapter_edges(sizes: TransformerSizes, suffixes: tuple[str, ...]) -> int:
    return sum(sum(sizes.shapes[name]) for name in sizes.linears(suffixes))


@cache
def _forward_flop(sizes: TransformerSizes, tokens: Tokens) -> float:
    linear = sum(
        2.0 * math.prod(shape) * _tokens_of(name, tokens)
        for name, shape in sizes.block.items()
        if len(shape) == 2 and name.endswith(".weight")
    )
    video, audio, text = tokens.video, tokens.audio, tokens.text
    pairs = (
        sizes.width * (video * video + video * text)
        + sizes.audio_width * (audio * audio + audio * text)
        # Video reads sound and sound reads video, both in the sound's width.
        + sizes.audio_width * 2 * video * audio
    )
    return sizes.blocks * (linear + 4.0 * pairs)


def _tokens_of(name: str, tokens: Tokens) -> int:
    """How many tokens a block's linear is applied to."""
    part, _, rest = name.partition(".")
    is_key = rest.startswith(("to_k", "to_v"))
    if part in ("attn2", "audio_attn2") and is_key:
        return tokens.text
    if part == "audio_to_video_attn":
        return tokens.audio if is_key else tokens.video
    if part == "video_to_audio_attn":
        return tokens.video if is_key else tokens.audio
    return tokens.audio if part.startswith("audio") else tokens.video
