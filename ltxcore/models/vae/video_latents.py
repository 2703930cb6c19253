"""Frames to video latents, as the transformer is trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


def encode_video(vae: Any, frames: np.ndarray[Any, Any] | torch.Tensor) -> torch.Tensor:
    """`encode_videos` of one clip: uint8 `[F, H, W, 3]` -> bf16 `[C, F', H', W']`."""
    return encode_videos(vae, [frames])[0]


def encode_videos(vae: Any, clips: Sequence[np.ndarray[Any, Any] | torch.Tensor]) -> list[torch.Tensor]:
    """Posterior mode of the frames, normalised with the VAE's own statistics.

    Args:
        vae: `AutoencoderKLLTX2Video`; the frames are moved to its device and dtype.
        clips: of one size, each uint8 `[F, H, W, 3]`, F = 8n + 1, H and W multiples of 32.

    Returns:
        For each clip bf16 `[C, (F - 1) / 8 + 1, H / 32, W / 32]` on the CPU: (z - mean) / std per channel.

    Raises:
        ValueError: not uint8 `[F, H, W, 3]`, or a size that the VAE cannot encode.
    """
    from diffusers import LTX2Pipeline

    for clip in clips:
        _check_frames(vae, torch.as_tensor(clip))
    pixels = torch.stack([torch.as_tensor(clip) for clip in clips]).permute(0, 4, 1, 2, 3)
    video = pixels.to(vae.device, torch.float32) / 127.5 - 1
    with torch.no_grad():
        mode = vae.encode(video.to(vae.dtype)).latent_dist.mode().float()
    latents = LTX2Pipeline._normalize_latents(
        mode, vae.latents_mean, vae.latents_std, vae.config.scaling_factor
    )
    return list(latents.to("cpu", torch.bfloat16))


def _check_frames(vae: Any, pixels: torch.Tensor) -> None:
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise ValueError(f"frames must be uint8 [F, H, W, 3]; found {pixels.dtype} {list(pixels.shape)}")
    count, height, width, _ = pixels.shape
    temporal, spatial = vae.temporal_compression_ratio, vae.spatial_compression_ratio
    if count % temporal != 1 or height % spatial or width % spatial:
        raise ValueError(
            f"the video VAE takes {temporal}n + 1 frames of sizes that {spatial} divides; found "
            f"{count} frames of {width}x{height}"
        )


def decode_video(vae: Any, latents: torch.Tensor) -> np.ndarray[Any, Any]:
    """The frames of latents, as `encode_videos` gives them back as far as the VAE keeps them.

    Args:
        vae: `AutoencoderKLLTX2Video`; the latents are moved to its device and dtype.
        latents: of one clip, normalised, `[C, F', H', W']`.

    Returns:
        uint8 `[F, H, W, 3]`, F = 8 (F' - 1) + 1, H = 32 H', W = 32 W'.
    """
    from diffusers import LTX2Pipeline

    mode = LTX2Pipeline._denormalize_latents(
        latents[None].to(vae.device, torch.float32),
        vae.latents_mean,
        vae.latents_std,
        vae.config.scaling_factor,
    )
    with torch.no_grad():
        video = vae.decode(mode.to(vae.dtype), return_dict=False)[0][0].float()
    pixels = ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    frames: np.ndarray[Any, Any] = pixels.permute(1, 2, 3, 0).cpu().numpy()
    return frames
