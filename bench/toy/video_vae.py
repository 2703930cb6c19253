"""Trains the toy's video VAE on drawn clips of any colour, so that colours new to the transformer decode."""

from __future__ import annotations

import colorsys
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.toy.fitting import fit
from bench.toy.sizes import VIDEO_VAE
from ltxcore.media.moving_shapes import BACKGROUND, COLOURS, SHAPES, MovingShape
from ltxcore.store.fingerprint import derive_seed

STEPS = 2000
BATCH = 8
LEARNING_RATE = 3e-3
KL = 2e-5
LATENT_NOISE = 0.05
SHAPE_WEIGHT = 4.0


def draw(rng: np.random.Generator) -> MovingShape:
    """A clip of any colour and direction."""
    if rng.random() < 0.5:
        colour = list(COLOURS.values())[rng.integers(len(COLOURS))]
    else:
        rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.5, 1), rng.uniform(0.6, 1))
        colour = tuple(round(255 * part) for part in rgb)
    angle = rng.integers(4) * math.pi / 2 if rng.random() < 0.7 else rng.uniform(0, 2 * math.pi)
    return MovingShape(
        SHAPES[rng.integers(len(SHAPES))],
        colour,
        (math.cos(angle), math.sin(angle)),
        None,
        radius=rng.uniform(0.15, 0.25),
        aside=rng.uniform(-0.2, 0.2),
    )


def clips(seed: int, count: int, edge: int) -> torch.Tensor:
    """float32 `[count, 3, 17, edge, edge]` in [-1, 1]."""
    rng = np.random.default_rng(seed)
    drawn = np.stack([draw(rng).frames(edge, edge) for _ in range(count)])
    return torch.from_numpy(drawn).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def make_video_vae() -> Any:
    from diffusers import AutoencoderKLLTX2Video

    torch.manual_seed(derive_seed(0, "toy", "vae"))
    return AutoencoderKLLTX2Video(**VIDEO_VAE)


def train_video_vae(work: Path, steps: int = STEPS) -> None:
    """Train, or continue, in `work`."""
    vae = make_video_vae()
    ground = torch.tensor(BACKGROUND).view(3, 1, 1, 1) / 127.5 - 1

    def losses(step: int) -> dict[str, torch.Tensor]:
        seed = derive_seed(0, "toy", "vae", step)
        pixels = clips(seed, BATCH, 64 if step % 4 else 96)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(pixels).latent_dist
            generator = torch.Generator().manual_seed(seed)
            mean = posterior.mean.float()
            noise = torch.randn(mean.shape, generator=generator)
            spread = (LATENT_NOISE * mean.detach().std()).clamp(min=1e-3)
            drawn = vae.decode(mean + spread * noise, return_dict=False)[0].float()
        weight = 1 + SHAPE_WEIGHT * ((pixels - ground).abs().amax(1, keepdim=True) > 0.1).float()
        error = drawn - pixels
        hue = error - error.mean(1, keepdim=True)
        return {
            "hue": 2 * (weight * hue.square()).mean(),
            "l1": (weight * error.abs()).mean(),
            "l2": (weight * error.square()).mean(),
            "size": KL * mean.square().mean(),
        }

    fit(vae, losses, steps, LEARNING_RATE, work / "vae.safetensors")


if __name__ == "__main__":
    import sys

    train_video_vae(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else STEPS)
