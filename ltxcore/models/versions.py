"""The versions of LTX-2: what differs between them, and how one is recognised on disk.

Configurations are in diffusers' names and describe the released, full-size models. The facts of the
weights on disk always win over this table: it serves the tiny model, planning, and what no file says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from ltxcore.models.errors import ModelError

Config = Mapping[str, Any]

AUDIO_SAMPLE_RATE = 16_000
"""Hz that the audio VAE works at."""
AUDIO_LATENTS_PER_SECOND = 25
"""16 000 Hz / hop 160 / 4 mel frames a latent."""
TEXT_MAX_TOKENS = 1024
TIME_SCALE = 1000
"""Model time = sigma x 1000."""
TINY_REVISION = 1
"""Bump when the bytes of the tiny model change, so that one written before is written anew."""
TINY_STAMP = "tiny.json"
COMPONENTS = ("transformer", "connectors", "vae", "audio_vae", "vocoder", "text_encoder", "tokenizer")


@dataclass(frozen=True)
class LatentGeometry:
    """How pixels, frames and seconds become latents and tokens; the same in every version so far."""

    spatial_factor: int = 32
    """Pixels of an edge to one latent."""
    temporal_factor: int = 8
    """Frames to one latent, the first frame alone being one: F frames give (F - 1) / 8 + 1."""
    patch_size: int = 1
    """Latents of an edge to one token."""

    def video_tokens(self, frames: int, width: int, height: int) -> int:
        """Tokens of a clip of `frames` = 8n + 1 and edges that are multiples of 32."""
        edge = self.spatial_factor * self.patch_size
        return ((frames - 1) // self.temporal_factor + 1) * (height // edge) * (width // edge)


GEOMETRY = LatentGeometry()


@dataclass(frozen=True)
class Version:
    """One generation of LTX-2."""

    name: str
    transformer: Config
    connectors: Config
    video_vae: Config
    audio_vae: Config
    vocoder: Config
    vocoder_class: Literal["LTX2Vocoder", "LTX2VocoderWithBWE"]
    text_features: Literal["shared", "per_modality"]
    """One feature for video and audio (2.0), or one for each (2.3)."""
    stg_block: int
    """The transformer block that the reference perturbs for spatio-temporal guidance."""
    image_crf: int
    """H.264 CRF with which a first-frame image is compressed before it is encoded."""
    geometry: LatentGeometry = GEOMETRY
    missing: tuple[str, ...] = ()
    """The parts that this project cannot load yet, each with why; empty where the version works."""

    def require_loadable(self, where: str) -> None:
        """Refuse a version of which parts are missing here.

        Raises:
            ModelError: names them.
        """
        if self.missing:
            raise ModelError(
                f"{where} is an LTX-{self.name}, which cannot be loaded yet; missing are "
                f"{'; '.join(self.missing)}. Give one of {', '.join(LOADABLE)}"
            )

    @property
    def output_sample_rate(self) -> int:
        """Hz of the vocoder's waveform."""
        return int(self.vocoder["output_sampling_rate"])


def _frozen(*parts: Config, **more: Any) -> Config:
    merged: dict[str, Any] = {}
    for part in parts:
        merged.update(part)
    return MappingProxyType(merged | more)


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
    spatial_compression_ratio=32,
    temporal_compression_ratio=8,
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

_V2_0 = Version(
    name="2.0",
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
    vocoder_class="LTX2Vocoder",
    text_features="shared",
    stg_block=29,
    image_crf=33,
)
_V2_3 = Version(
    name="2.3",
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
    vocoder_class="LTX2VocoderWithBWE",
    text_features="per_modality",
    stg_block=28,
    image_crf=33,
)
# Its transformer is known and counts the released parameters; what else it needs is named in `missing`.
_V2_5 = Version(
    name="2.5",
    transformer=_frozen(_V2_3.transformer, ff_bias=False, use_keyframes_abs_pos_embedding=True),
    connectors=_V2_3.connectors,
    video_vae=_VIDEO_VAE,
    audio_vae=_AUDIO_VAE,
    vocoder=_V2_3.vocoder,
    vocoder_class="LTX2VocoderWithBWE",
    text_features="per_modality",
    stg_block=28,
    image_crf=18,
    missing=(
        "the text encoder (a Gemma 4 tuned by Lightricks, whose tokenizer needs BOS put in front by hand)",
        "the video VAE (its decoder is a diffusion model)",
    ),
)

VERSIONS: Mapping[str, Version] = MappingProxyType({v.name: v for v in (_V2_0, _V2_3, _V2_5)})
LOADABLE: tuple[str, ...] = tuple(name for name, version in VERSIONS.items() if not version.missing)


def recognise(root: Path) -> Version:
    """The version of a model in the diffusers layout, from its components' own configurations.

    Raises:
        ModelError: no model in that layout, not an LTX-2, or a version that is not supported.
    """
    index = read_json(root / "model_index.json")
    pipeline = str(index.get("_class_name"))
    if not pipeline.startswith("LTX2"):
        raise ModelError(
            f"{root} holds a {pipeline}, not an LTX-2, whose model_index.json names LTX2Pipeline; "
            "give a directory of LTX-2"
        )
    transformer = read_json(root / "transformer" / "config.json")
    connectors = read_json(root / "connectors" / "config.json")
    gated = bool(transformer.get("gated_attn"))
    per_modality = bool(connectors.get("per_modality_projections"))
    if transformer.get("use_keyframes_abs_pos_embedding"):
        VERSIONS["2.5"].require_loadable(str(root))
    if gated != per_modality:
        raise ModelError(
            f"{root} mixes versions: the transformer's gated_attn is {gated} but the connectors' "
            f"per_modality_projections is {per_modality}; both are false in 2.0 and true in 2.3. "
            "Take both components from one version"
        )
    return VERSIONS["2.3" if gated else "2.0"]


def tiny_stamp(version: str = "2.0", seed: int = 0) -> str:
    """What `tiny.json` in a tiny model says: which one it is."""
    return json.dumps({"version": version, "seed": seed, "revision": TINY_REVISION})


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a model directory.

    Raises:
        ModelError: the file is missing, does not parse, or holds no object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{path} does not exist; a model directory in the diffusers layout holds model_index.json and "
            f"a folder for each of {', '.join(COMPONENTS)}"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}; copy or download the model again") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path} holds a {type(data).__name__}, not an object; download the model again")
    return data
