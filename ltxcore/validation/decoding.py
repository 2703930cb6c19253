"""Decoding that falls back to tiles where memory does not suffice for the whole picture.

The decoder looks along time in both directions, so that there are no exact pieces for it as for the encoder.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from ltxcore.memory.out_of_memory import is_out_of_memory, release_memory
from ltxcore.models.vae.ways import LARGE_TILES, SMALL_TILES, Tiles
from ltxcore.store.fingerprint import derive_seed
from ltxcore.validation.schedule import given_scheduler

logger = logging.getLogger(__name__)
_NOISE = "diffusion decoder"


class TiledOnDemand:
    """Stands where a pipeline calls `vae.decode`; keeps the tiles that worked for the next rendering.

    A generator that is handed over draws each attempt's noise from where it stood.
    """

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
        generator = kwargs.get("generator")
        state = None if generator is None else generator.get_state()
        while True:
            if generator is not None:
                generator.set_state(state)
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
    """Make a video VAE or a diffusion decoder decode in `tiles`, or whole, and in smaller ones if needed."""
    on_demand = TiledOnDemand(vae, tiles)
    vae.decode = on_demand
    return on_demand


def diffusion_decoded(decoder: Any, latents: torch.Tensor, seed: int) -> torch.Tensor:
    """Pictures `[1, F, 3, H, W]` in [0, 1] that a diffusion decoder makes of latents.

    Args:
        decoder: `LTX2VideoDiffusionDecoderModel`.
        latents: `[1, C, F', H / 32, W / 32]`, not normalised.
        seed: of the rendering. The decoder's noise is drawn apart from the sampling's, so that it is the same
            whatever was drawn before.
    """
    from diffusers import LTX2VideoDiffusionDecodePipeline

    pipeline = LTX2VideoDiffusionDecodePipeline(decoder, given_scheduler())
    generator = torch.Generator("cpu").manual_seed(derive_seed(seed, _NOISE))
    (video,) = pipeline(latents, generator, output_type="pt", return_dict=False, denormalize=False)
    return video
