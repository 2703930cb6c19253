"""The way of each clip through the video VAE, chosen from what memory is left beside the weights."""

from __future__ import annotations

from dataclasses import dataclass

from ltxcore.memory.plan import vae_activations_bytes
from ltxcore.models.vae.ways import VaeWay, ways_from

Size = tuple[int, int, int]
"""Frames, width, height."""


@dataclass(frozen=True)
class VaeRoom:
    """What a batch of clips may take, and what a clip takes of it."""

    room_bytes: int
    channels: int
    """Of the widest feature map, at a quarter of each edge."""
    value_bytes: int

    def work_bytes(self, way: VaeWay, size: Size) -> int:
        """Peak of one clip beside the weights."""
        frames, width, height = way.at_once(*size)
        return vae_activations_bytes(
            frames=frames, width=width, height=height, channels=self.channels, value_bytes=self.value_bytes
        )

    def way_for(self, first: VaeWay, size: Size) -> VaeWay:
        """`first`, or the next smaller way that fits; the smallest where none does."""
        way = first
        for way in ways_from(first, *size):
            if self.work_bytes(way, size) <= self.room_bytes:
                break
        return way

    def clips_for(self, way: VaeWay, size: Size, asked: int) -> int:
        """How many clips of a size go through at once, at most as many as asked for."""
        return max(1, min(asked, self.room_bytes // max(1, self.work_bytes(way, size))))
