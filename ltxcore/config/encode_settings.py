"""How clips become latents."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from ltxcore.config.base import Strict


class EncodeSettings(Strict):
    """How clips become latents. The dtype, and tiles where they change a value, are part of their keys."""

    vae_dtype: Literal["bf16", "fp32"] = Field("bf16", description="Arithmetic of the VAE encoders.")
    vae_batch_size: PositiveInt = Field(1, description="Clips of one bucket through the VAE at once.")
    vae_enable_slicing: bool = Field(False, description="The clips of a batch one after another.")
    vae_enable_patch_conv: bool = Field(
        False, description="Encode 16 frames at a time; the result is that of the whole clip."
    )
    vae_enable_temporal_roll: bool = Field(
        False, description="Encode 8 frames at a time; the result is that of the whole clip."
    )
    vae_enable_tiling: bool = Field(
        False, description="Encode and decode in tiles of 512 pixels, blended where they overlap."
    )
    batch_clips: int = Field(64, ge=1, le=256, description="Clips committed together, and lost together.")
