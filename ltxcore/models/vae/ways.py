"""The ways of running a clip through the video VAE, from the fastest to the smallest, as plain values.

Pieces along time give the result of the whole clip. Tiles do not: their edges are blended, so that a tiling
is part of the latents' key wherever the picture is larger than one tile. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from ltxcore.config.encode_settings import EncodeSettings

NO_TILING = "none"
PATCH_CONV_FRAMES = 16
TEMPORAL_ROLL_FRAMES = 8
"""The least: one latent frame."""


@dataclass(frozen=True)
class Tiles:
    """Square tiles in pixels; neighbours overlap by `size - stride`."""

    size: int
    stride: int

    @property
    def name(self) -> str:
        """As it stands in keys."""
        return f"{self.size}/{self.stride}"


LARGE_TILES, SMALL_TILES = Tiles(512, 448), Tiles(256, 192)


@dataclass(frozen=True)
class VaeWay:
    """How clips go through the video VAE."""

    piece_frames: int | None = None
    """Frames at once while encoding; None: all."""
    tiles: Tiles | None = None

    @property
    def name(self) -> str:
        """The way in words, as logs and plans show it."""
        time = "whole clips" if self.piece_frames is None else f"pieces of {self.piece_frames} frames"
        return time if self.tiles is None else f"{time}, tiles of {self.tiles.size}"

    def tiling(self, width: int, height: int) -> str:
        """What this way does to the values of a picture of this size: none where it fits one tile."""
        if self.tiles is None or max(width, height) <= self.tiles.size:
            return NO_TILING
        return self.tiles.name

    def takes_less(self, way: VaeWay, frames: int, width: int, height: int) -> bool:
        """Whether a clip of this size has less in memory at once than in `way`, in no respect more."""
        ours, theirs = self.at_once(frames, width, height), way.at_once(frames, width, height)
        return ours != theirs and all(mine <= its for mine, its in zip(ours, theirs, strict=True))

    def at_once(self, frames: int, width: int, height: int) -> tuple[int, int, int]:
        """Frames, width and height in memory at once; a piece counts the two frames that it looks back at."""
        if self.piece_frames is not None:
            frames = min(frames, self.piece_frames + 2)
        if self.tiles is not None:
            width, height = min(width, self.tiles.size), min(height, self.tiles.size)
        return frames, width, height

    @contextmanager
    def applied(self, vae: Any) -> Iterator[None]:
        """Inside, `vae` works in this way."""
        before = vae.use_tiling
        vae.use_tiling = False
        if self.tiles is not None:
            size, stride = self.tiles.size, self.tiles.stride
            vae.enable_tiling(size, size, None, stride, stride)
        try:
            with self._in_pieces(vae):
                yield
        finally:
            vae.use_tiling = before

    def _in_pieces(self, vae: Any) -> Any:
        if self.piece_frames is None:
            return nullcontext()
        from ltxcore.models.vae.chunks import encode_in_pieces

        return encode_in_pieces(vae, self.piece_frames)


WAYS: tuple[VaeWay, ...] = (
    VaeWay(),
    VaeWay(32),
    VaeWay(PATCH_CONV_FRAMES),
    VaeWay(TEMPORAL_ROLL_FRAMES),
    VaeWay(TEMPORAL_ROLL_FRAMES, LARGE_TILES),
    VaeWay(TEMPORAL_ROLL_FRAMES, SMALL_TILES),
)
TILINGS: tuple[str, ...] = (LARGE_TILES.name, SMALL_TILES.name)


def asked_way(settings: EncodeSettings) -> VaeWay:
    """The way that a recipe's own keys ask for."""
    piece = None
    if settings.vae_enable_temporal_roll:
        piece = TEMPORAL_ROLL_FRAMES
    elif settings.vae_enable_patch_conv:
        piece = PATCH_CONV_FRAMES
    return VaeWay(piece, LARGE_TILES if settings.vae_enable_tiling else None)


def ways_from(first: VaeWay, frames: int, width: int, height: int) -> Iterator[VaeWay]:
    """`first`, and then every way that takes a clip of this size with less memory than the one before."""
    yield first
    last = first
    for way in WAYS:
        if way.takes_less(last, frames, width, height):
            last = way
            yield way
