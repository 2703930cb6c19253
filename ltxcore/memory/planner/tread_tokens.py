"""The tokens of each block with TREAD's routes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ltxcore.config.tread_settings import Span


@dataclass(frozen=True)
class BlockTokens:
    """The video tokens that one block computes on, of one sample."""

    video: int
    routed: bool = False
    """They are a part of all: the block has rotary tables of its own for them."""
    entry: bool = False
    """It is the first of its route, which holds on to the whole stream."""


def tokens_by_block(video: int, given: int, spans: Sequence[Span], blocks: int) -> tuple[BlockTokens, ...]:
    """The tokens of every block.

    A route of ratio r keeps max(1, round((1 - r) N), given) of a sample's N tokens (arXiv:2501.04765; given
    tokens never pass by).

    Args:
        video: the sample's tokens.
        given: the most of them that may be given.
        spans: the routes.
        blocks: of the transformer.
    """
    found = [BlockTokens(video)] * blocks
    for span in spans:
        kept = min(video, max(1, round((1 - span.ratio) * video), given))
        if kept < video:
            for position in range(span.start, span.end + 1):
                found[position] = BlockTokens(kept, routed=True, entry=position == span.start)
    return tuple(found)
