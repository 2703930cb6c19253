"""Masks on the latents' grid: the share of white in each cell."""

from __future__ import annotations

from typing import Any

import numpy as np

from ltxcore.config.geometry import GEOMETRY

HALF = 128
"""From this grey value on a pixel is white: what compression leaves of black and white is far from it."""

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Shares = np.ndarray[Any, np.dtype[np.float32]]


def white_shares(pixels: Pixels, frames: int) -> Shares:
    """White's share of the area of each latent.

    The first frame has a latent of its own, every other latent is eight frames of 32x32 pixels (the causal
    video VAE). A still mask holds for all frames.

    Args:
        pixels: uint8 RGB `[F, H, W, 3]`, or `[1, H, W, 3]` of a still mask; H and W multiples of 32.
        frames: F, 8n + 1.

    Returns:
        float32 `[(F - 1) / 8 + 1, H / 32, W / 32]` in [0, 1].
    """
    _, height, width, _ = pixels.shape
    white = pixels.astype(np.uint16).sum(-1) >= 3 * HALF
    edge = GEOMETRY.spatial_factor
    cells = white.reshape(len(white), height // edge, edge, width // edge, edge)
    by_frame = np.broadcast_to(cells.mean((2, 4), dtype=np.float64), (frames, *cells.shape[1:4:2]))
    rest = by_frame[1:].reshape(-1, GEOMETRY.temporal_factor, *by_frame.shape[1:]).mean(1)
    return np.concatenate([by_frame[:1], rest]).astype(np.float32)
