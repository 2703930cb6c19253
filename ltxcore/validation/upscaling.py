"""Latents between the two stages of a rendering: twice as wide and high, through diffusers' own pipeline."""

from __future__ import annotations

from typing import Any

import torch


def upscaled(upsampler: Any, vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Latents `[B, C, F, 2H, 2W]` in float32, not normalised.

    Args:
        upsampler: `LTX2LatentUpsamplerModel`, which works on latents as the VAE makes them.
        vae: the video VAE.
        latents: `[B, C, F, H, W]`, not normalised.
    """
    from diffusers import LTX2LatentUpsamplePipeline

    pipeline = LTX2LatentUpsamplePipeline(vae=vae, latent_upsampler=upsampler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(latents=latents, output_type="latent", return_dict=False)[0].float()


def normalised(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Latents `[B, C, F, H, W]` by the VAE's statistics, as the transformer takes them."""
    mean, std = (getattr(vae, f"latents_{name}").view(1, -1, 1, 1, 1) for name in ("mean", "std"))
    return (latents - mean.to(latents)) * vae.config.scaling_factor / std.to(latents)
