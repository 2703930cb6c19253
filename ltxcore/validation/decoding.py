"""Decoding that falls back to tiles where memory does not suffice for the whole picture.

The decoder looks along time in both directions, so that there are no exact pieces for it as for the encoder.
"""

from __future__ import annotations

import logging
from typing import Any

from ltxcore.memory.out_of_memory import is_out_of_memory, release_memory
from ltxcore.models.vae.ways import LARGE_TILES, SMALL_TILES, Tiles

logger = logging.getLogger(__name__)


class TiledOnDemand:
    """Stands where a pipeline calls `vae.decode`; keeps the tiles that worked for the next rendering."""

    def __init__(self, vae: Any, tiles: Tiles | None) -> None:
        self._decode = vae.decode
        self._vae = vae
        self._smaller = [smaller for smaller in (LARGE_TILES, SMALL_TILES) if smaller != tiles]
        self.steps: list[str] = []
        """Every step down, in words."""
        if tiles is not None:
            self._use(tiles)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`vae.decode`, in smaller tiles each time that it runs out of memory.

        Raises:
            RuntimeError, MemoryError: not even the smallest tiles suffice.
        """
        while True:
            try:
                return self._decode(*args, **kwargs)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or not self._smaller:
                    raise
            # Outside the handler: the error's traceback holds every tensor of the attempt.
            release_memory()
            self._step_down()

    def _step_down(self) -> None:
        tiles = self._smaller.pop(0)
        step = f"a rendering did not fit as it was; decoded in tiles of {tiles.size} pixels"
        self.steps.append(step)
        logger.warning("out of memory: %s", step)
        self._use(tiles)

    def _use(self, tiles: Tiles) -> None:
        self._vae.enable_tiling(tiles.size, tiles.size, None, tiles.stride, tiles.stride)


def decode_within_memory(vae: Any, tiles: Tiles | None = None) -> TiledOnDemand:
    """Make a video VAE decode in `tiles`, or whole, and in smaller tiles where that does not fit."""
    on_demand = TiledOnDemand(vae, tiles)
    vae.decode = on_demand
    return on_demand
