"""How wide the toy is: the configuration of every component that differs from the released LTX-2.0."""

from __future__ import annotations

from typing import Any

from ltxcore.models.versions import VERSIONS

VERSION = VERSIONS["2.0"]
VIDEO_LATENTS = 32
MEL_BINS = 32
AUDIO_CHANNELS = 2
AUDIO_TOKEN = AUDIO_CHANNELS * MEL_BINS // 4
TEXT_WIDTH = 64
GEMMA_LAYERS = 3
REGISTERS = 16
MAX_TOKENS = 32

VIDEO_VAE: dict[str, Any] = {
    **VERSION.video_vae,
    "latent_channels": VIDEO_LATENTS,
    "block_out_channels": (32, 32, 64, 64),
    "decoder_block_out_channels": (16, 32, 64),
    "layers_per_block": (1, 1, 1, 1, 1),
    "decoder_layers_per_block": (1, 1, 1, 1),
}
AUDIO_VAE: dict[str, Any] = {
    **VERSION.audio_vae,
    # The statistics have `base_channels` entries and apply to packed tokens, so both sizes must agree.
    "base_channels": AUDIO_TOKEN,
    "latent_channels": AUDIO_CHANNELS,
    "mel_bins": MEL_BINS,
    "ch_mult": (1, 2, 2),
    "num_res_blocks": 1,
}
VOCODER: dict[str, Any] = {
    **VERSION.vocoder,
    "in_channels": 2 * MEL_BINS,
    "hidden_channels": 64,
    # Every stage halves the width: after the released five, two channels would be left.
    "upsample_kernel_sizes": (16, 15, 16),
    "upsample_factors": (6, 5, 8),
}
TRANSFORMER: dict[str, Any] = {
    **VERSION.transformer,
    "in_channels": VIDEO_LATENTS,
    "out_channels": VIDEO_LATENTS,
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "cross_attention_dim": 128,
    "audio_in_channels": AUDIO_TOKEN,
    "audio_out_channels": AUDIO_TOKEN,
    "audio_num_attention_heads": 4,
    "audio_attention_head_dim": 16,
    "audio_cross_attention_dim": 64,
    "num_layers": 4,
    "caption_channels": TEXT_WIDTH,
}
CONNECTORS: dict[str, Any] = {
    **VERSION.connectors,
    "caption_channels": TEXT_WIDTH,
    "text_proj_in_factor": GEMMA_LAYERS + 1,
    "video_hidden_dim": TEXT_WIDTH,
    "audio_hidden_dim": TEXT_WIDTH,
    **{
        f"{stream}_connector_{key}": value
        for stream in ("video", "audio")
        for key, value in {
            "num_attention_heads": 4,
            "attention_head_dim": TEXT_WIDTH // 4,
            "num_layers": 1,
            "num_learnable_registers": REGISTERS,
        }.items()
    },
}
