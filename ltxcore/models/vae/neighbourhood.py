"""Neighbourhood attention of LTX-2.5's diffusion decoder, block by block with plain attention.

Every cell of a grid sees the window of `kernel` cells around it, which is moved inward at the edges and never
smaller (NATTEN's `na3d`). diffusers has it through FlexAttention, whose mask of a whole video is larger than
any memory, and through a kernel that is downloaded as code. Here the queries of a block see the cells that
any of them may, under a mask: the same sums, on every device, in bounded memory.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

Edges = tuple[int, int, int]
BLOCK: Edges = (4, 8, 8)
"""Edges of a block of queries in frames, rows and columns."""


@dataclass(frozen=True)
class _Span:
    """Along one axis: some queries, the keys that any of them sees, and which of them sees which."""

    queries: slice
    keys: slice
    seen: torch.Tensor
    """bool `[queries, keys]`."""


def neighbourhood_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, kernel: Edges, block: Edges = BLOCK
) -> torch.Tensor:
    """What each cell takes from its window: softmax(q k) v, `[B, T, H, W, heads, d]` like the arguments.

    Args:
        query: `[B, T, H, W, heads, d]`, scaled already.
        key: likewise.
        value: likewise.
        kernel: edges of the window, not larger than the grid's.
        block: edges of the blocks of queries that are computed together. They change no sum, only its memory.
    """
    found = torch.empty_like(query)
    axes = [
        _spans(length, size, step, query.device)
        for length, size, step in zip(query.shape[1:4], kernel, block, strict=True)
    ]
    for frames, rows, columns in itertools.product(*axes):
        inside = (slice(None), frames.queries, rows.queries, columns.queries)
        around = (slice(None), frames.keys, rows.keys, columns.keys)
        seen = (
            frames.seen[:, None, None, :, None, None]
            & rows.seen[None, :, None, None, :, None]
            & columns.seen[None, None, :, None, None, :]
        )
        part = query[inside]
        taken = functional.scaled_dot_product_attention(
            _heads_first(part),
            _heads_first(key[around]),
            _heads_first(value[around]),
            attn_mask=seen.flatten(3).flatten(0, 2),
            scale=1.0,
        )
        found[inside] = taken.transpose(1, 2).reshape(part.shape)
    return found


def _spans(length: int, kernel: int, block: int, device: torch.device) -> list[_Span]:
    spans = []
    for first in range(0, length, block):
        end = min(first + block, length)
        # On the CPU: a device would have to be waited for.
        starts = (torch.arange(first, end) - kernel // 2).clamp(0, length - kernel)
        low, high = int(starts[0]), int(starts[-1]) + kernel
        keys = torch.arange(low, high)[None]
        seen = (keys >= starts[:, None]) & (keys < starts[:, None] + kernel)
        spans.append(_Span(slice(first, end), slice(low, high), seen.to(device)))
    return spans


def _heads_first(cells: torch.Tensor) -> torch.Tensor:
    """`[B, heads, N, d]` of `[B, T, H, W, heads, d]`."""
    return cells.flatten(1, 3).transpose(1, 2)


class BlockedNeighbourhood:
    """An attention processor of diffusers' `LTX2VideoDiffusionDecoderModel`."""

    def __call__(self, attn: Any, hidden_states: torch.Tensor, block_mask: Any = None) -> torch.Tensor:
        """`[B, T, H, W, C]` of the same; diffusers makes no mask for it."""
        query, key, value = attn.project_qkv(hidden_states)
        found = neighbourhood_attention(query, key, value, attn.kernel_size)
        return attn.to_out[0](found.flatten(-2))
