"""The versions of LTX-2, one row each, with everything in which they differ.

Configurations are in diffusers' names and describe the released, full-size models. The facts of the
weights on disk always win over this table: it serves the tiny model, planning, and what no file says.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Final

from ltxcore.config.geometry import AUDIO_SAMPLE_RATE, GEOMETRY
from ltxcore.config.published import PUBLISHED
from ltxcore.models.version import Config, TextEncoder, Version

TEXT_MAX_TOKENS = 1024
TIME_SCALE = 1000
"""Model time = sigma x 1000."""
COMPONENTS = ("transformer", "connectors", "vae", "audio_vae", "vocoder", "text_encoder", "tokenizer")


def _frozen(*parts: Config, **more: Any) -> Config:
    merged: dict[str, Any] = {}
    for part in parts:
        merged.update(part)
    return MappingProxyType(merged | more)


_CLASSES = _frozen(
    transformer="LTX2VideoTransformer3DModel",
    connectors="LTX2TextConnectors",
    vae="AutoencoderKLLTX2Video",
    audio_vae="AutoencoderKLLTX2Audio",
    vocoder="LTX2VocoderWithBWE",
)
_GEMMA_3 = TextEncoder(
    name="Gemma 3 12B",
    model_class="Gemma3TextModel",
    model_types=("gemma3", "gemma3_text"),
    values=11_766_034_176,
    layers=48,
    source="google/gemma-3-12b-it",
)
_GEMMA_4 = TextEncoder(
    name="the Gemma 4 12B that Lightricks tuned",
    model_class="Gemma4UnifiedTextModel",
    model_types=("gemma4_unified", "gemma4_unified_text"),
    values=11_907_350_272,
    layers=48,
    source="Lightricks/LTX-2.5-Diffusers",
    tuned="gemma4-12b-ltx-v1",
)
_TRANSFORMER = _frozen(
    in_channels=128,
    out_channels=128,
    num_attention_heads=32,
    attention_head_dim=128,
    cross_attention_dim=4096,
    audio_in_channels=128,
    audio_out_channels=128,
    audio_num_attention_heads=32,
    audio_attention_head_dim=64,
    audio_cross_attention_dim=2048,
    num_layers=48,
    caption_channels=3840,
    pos_embed_max_pos=20,
    audio_pos_embed_max_pos=20,
    base_height=2048,
    base_width=2048,
    timestep_scale_multiplier=TIME_SCALE,
    cross_attn_timestep_scale_multiplier=TIME_SCALE,
    # The class default `interleaved` is wrong for every released weight.
    rope_type="split",
    rope_double_precision=True,
    # The reference perturbs 2.0 too. It adds no parameter; without it the perturbation is silently ignored.
    perturbed_attn=True,
)
_GATED = _frozen(gated_attn=True, audio_gated_attn=True, cross_attn_mod=True, audio_cross_attn_mod=True)
_CONNECTORS = _frozen(
    caption_channels=3840,
    text_proj_in_factor=49,
    video_connector_num_learnable_registers=128,
    audio_connector_num_learnable_registers=128,
    connector_rope_base_seq_len=4096,
    rope_type="split",
    rope_double_precision=True,
)
_VIDEO_VAE = _frozen(
    latent_channels=128,
    patch_size=4,
    encoder_causal=True,
    decoder_causal=False,
    encoder_spatial_padding_mode="zeros",
    spatial_compression_ratio=GEOMETRY.spatial_factor,
    temporal_compression_ratio=GEOMETRY.temporal_factor,
)
_AUDIO_VAE = _frozen(
    base_channels=128,
    ch_mult=(1, 2, 4),
    num_res_blocks=2,
    latent_channels=8,
    norm_type="pixel",
    causality_axis="height",
    sample_rate=AUDIO_SAMPLE_RATE,
    mel_hop_length=160,
    mel_bins=64,
)
_UPSAMPLER = _frozen(
    in_channels=128,
    mid_channels=1024,
    num_blocks_per_stage=4,
    dims=3,
    spatial_upsample=True,
    temporal_upsample=False,
    use_rational_resampler=False,
)

_V2_0 = Version(
    name="2.0",
    published=PUBLISHED["2.0"],
    classes=_frozen(_CLASSES, vocoder="LTX2Vocoder"),
    transformer=_TRANSFORMER,
    connectors=_frozen(
        _CONNECTORS,
        video_connector_num_attention_heads=30,
        video_connector_attention_head_dim=128,
        video_connector_num_layers=2,
        audio_connector_num_attention_heads=30,
        audio_connector_attention_head_dim=128,
        audio_connector_num_layers=2,
    ),
    video_vae=_frozen(
        _VIDEO_VAE,
        block_out_channels=(256, 512, 1024, 2048),
        decoder_block_out_channels=(256, 512, 1024),
        layers_per_block=(4, 6, 6, 2, 2),
        decoder_layers_per_block=(5, 5, 5, 5),
        decoder_spatio_temporal_scaling=(True, True, True),
        decoder_inject_noise=(False, False, False, False),
        upsample_type=("spatiotemporal", "spatiotemporal", "spatiotemporal"),
        upsample_residual=(True, True, True),
        upsample_factor=(2, 2, 2),
        decoder_spatial_padding_mode="reflect",
    ),
    audio_vae=_AUDIO_VAE,
    vocoder=_frozen(
        in_channels=128,
        hidden_channels=1024,
        upsample_kernel_sizes=(16, 15, 8, 4, 4),
        upsample_factors=(6, 5, 2, 2, 2),
        output_sampling_rate=24_000,
    ),
    upsampler=_UPSAMPLER,
    diffusion_decoder=None,
    text_encoder=_GEMMA_3,
    stg_block=29,
    image_crf=33,
    sound_values=108_800_000,
)
_V2_3 = Version(
    name="2.3",
    published=PUBLISHED["2.3"],
    classes=_CLASSES,
    transformer=_frozen(_TRANSFORMER, _GATED, use_prompt_embeddings=False),
    connectors=_frozen(
        _CONNECTORS,
        video_connector_num_attention_heads=32,
        video_connector_attention_head_dim=128,
        video_connector_num_layers=8,
        video_gated_attn=True,
        audio_connector_num_attention_heads=32,
        audio_connector_attention_head_dim=64,
        audio_connector_num_layers=8,
        audio_gated_attn=True,
        per_modality_projections=True,
        video_hidden_dim=4096,
        audio_hidden_dim=2048,
        proj_bias=True,
    ),
    video_vae=_frozen(
        _VIDEO_VAE,
        block_out_channels=(256, 512, 1024, 1024),
        decoder_block_out_channels=(256, 512, 512, 1024),
        layers_per_block=(4, 6, 4, 2, 2),
        decoder_layers_per_block=(4, 6, 4, 2, 2),
        decoder_spatio_temporal_scaling=(True, True, True, True),
        decoder_inject_noise=(False, False, False, False, False),
        upsample_type=("spatiotemporal", "spatiotemporal", "temporal", "spatial"),
        upsample_residual=(False, False, False, False),
        upsample_factor=(2, 2, 1, 2),
        decoder_spatial_padding_mode="zeros",
    ),
    audio_vae=_AUDIO_VAE,
    vocoder=_frozen(
        in_channels=128,
        hidden_channels=1536,
        upsample_kernel_sizes=(11, 4, 4, 4, 4, 4),
        upsample_factors=(5, 2, 2, 2, 2, 2),
        bwe_in_channels=128,
        bwe_hidden_channels=512,
        bwe_upsample_kernel_sizes=(12, 11, 4, 4, 4),
        bwe_upsample_factors=(6, 5, 2, 2, 2),
        num_mel_channels=64,
        input_sampling_rate=AUDIO_SAMPLE_RATE,
        output_sampling_rate=48_000,
    ),
    upsampler=_UPSAMPLER,
    diffusion_decoder=None,
    text_encoder=_GEMMA_3,
    stg_block=28,
    image_crf=33,
    sound_values=181_700_000,
)
_V2_5 = Version(
    name="2.5",
    published=PUBLISHED["2.5"],
    classes=_CLASSES,
    transformer=_frozen(_V2_3.transformer, ff_bias=False, use_keyframes_abs_pos_embedding=True),
    connectors=_V2_3.connectors,
    video_vae=_V2_3.video_vae,
    audio_vae=_AUDIO_VAE,
    vocoder=_V2_3.vocoder,
    upsampler=_UPSAMPLER,
    diffusion_decoder=_frozen(
        latent_channels=128,
        patch_size=4,
        decoder_head_dim=64,
        decoder_stage_channels=(2048, 1024, 512, 512, 256),
        decoder_stage_depths=(4, 6, 4, 2, 8),
        decoder_stage_kernels=((3, 7, 7), (3, 7, 7), (3, 5, 5), (3, 5, 5)),
        decoder_upsample_strides=((1, 2, 2), (2, 1, 1), (2, 2, 2), (2, 2, 2)),
        decoder_upsample_channel_reductions=(2, 2, 1, 2),
        decoder_stage5_kernel=(11, 11, 11),
        decoder_t_emb_dim=384,
        decoder_timestep_scale_multiplier=1000.0,
        decoder_model_output_type="x0",
        decoder_num_inference_steps=1,
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    ),
    text_encoder=_GEMMA_4,
    stg_block=28,
    image_crf=18,
    sound_values=_V2_3.sound_values,
)

VERSIONS: Final[dict[str, Version]] = {version.name: version for version in (_V2_0, _V2_3, _V2_5)}
