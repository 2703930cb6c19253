"""How clips become latents."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from ltxcore.config.base import Strict


class EncodeSettings(Strict):
    """How clips are encoded to latents. The dtype, and tiles that change values, are part of the latents'
    keys."""

    vae_dtype: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="Arithmetic of the VAE encoders; auto: bf16 on a GPU, fp32 on a CPU."
    )
    vae_batch_size: PositiveInt = Field(1, description="Clips of one bucket that go through the VAE at once.")
    vae_enable_slicing: bool = Field(False, description="Encode the clips of a batch one after another.")
    vae_enable_patch_conv: bool = Field(
        False, description="Encode 16 frames at a time; the result is the same as for the whole clip."
    )
    vae_enable_temporal_roll: bool = Field(
        False, description="Encode 8 frames at a time; the result is the same as for the whole clip."
    )
    vae_enable_tiling: bool = Field(
        False, description="Encode and decode in tiles of 512 pixels, blended where they overlap."
    )
    batch_clips: int = Field(
        64, ge=1, le=256, description="Clips that are committed together; a crash loses at most this many."
    )
