"""Configurations of the components of a combined checkpoint, in diffusers' names.

Three sources, the later winning: the versions table, the `config` of the file's metadata (ltx2-facts
section 9), and the shapes of the weights where nothing else says how wide a layer is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ltxcore.models.errors import ModelError
from ltxcore.models.files.weights import Weights
from ltxcore.models.version import Version

Config = dict[str, Any]
Stored = Mapping[str, Any]
Blocks = Sequence[tuple[str, Stored]]
"""A half of the VAE in the reference's words: ("res_x", {"num_layers": 4}), ("compress_all", {...}), ..."""
# How the reference names what a VAE stage does to its input: these end in `_res` in the encoder.
SCALING = {"compress_space": "spatial", "compress_time": "temporal", "compress_all": "spatiotemporal"}

TRANSFORMER_KEYS = {
    **{
        key: key
        for key in (
            "num_attention_heads",
            "attention_head_dim",
            "in_channels",
            "out_channels",
            "num_layers",
            "cross_attention_dim",
            "caption_channels",
            "norm_eps",
            "norm_elementwise_affine",
            "activation_fn",
            "attention_bias",
            "audio_num_attention_heads",
            "audio_attention_head_dim",
            "audio_out_channels",
            "audio_cross_attention_dim",
            "timestep_scale_multiplier",
            "rope_type",
            "ff_bias",
            "audio_ff_bias",
            "use_prompt_adaln_single",
            "use_keyframes_abs_pos_embedding",
        )
    },
    "av_ca_timestep_scale_multiplier": "cross_attn_timestep_scale_multiplier",
    "positional_embedding_theta": "rope_theta",
}
AUDIO_VAE_KEYS = {
    "ch": "base_channels",
    "out_ch": "output_channels",
    "z_channels": "latent_channels",
    **{
        key: key
        for key in (
            "ch_mult",
            "num_res_blocks",
            "in_channels",
            "resolution",
            "norm_type",
            "causality_axis",
            "dropout",
            "mid_block_add_attention",
            "mel_bins",
            "double_z",
        )
    },
}
VOCODER_KEYS = {
    "upsample_initial_channel": "hidden_channels",
    "upsample_kernel_sizes": "upsample_kernel_sizes",
    "upsample_rates": "upsample_factors",
    "resblock_kernel_sizes": "resnet_kernel_sizes",
    "resblock_dilation_sizes": "resnet_dilations",
}
BANDWIDTH_KEYS = {
    "n_fft": "filter_length",
    "hop_length": "hop_length",
    "win_size": "window_length",
    "num_mels": "num_mel_channels",
    "input_sampling_rate": "input_sampling_rate",
    "output_sampling_rate": "output_sampling_rate",
}


def component_config(component: str, version: Version, stored: Stored, weights: Weights) -> Config:
    """The configuration of one component.

    Args:
        component: transformer, connectors, vae, audio_vae or vocoder.
        version: what the file's weights and metadata say it is.
        stored: the `config` of the metadata; `{}` where there is none.
        weights: the component's, under diffusers' names.

    Raises:
        ModelError: the metadata does not have the reference's form.
    """
    table, build = {
        "transformer": (version.transformer, _transformer),
        "connectors": (version.connectors, _connectors),
        "vae": (version.video_vae, _video_vae),
        "audio_vae": (version.audio_vae, _audio_vae),
        "vocoder": (version.vocoder, _vocoder),
    }[component]
    build_config: Callable[[Stored, Weights], Config] = build
    try:
        config = dict(table) | build_config(stored, weights)
    except (AttributeError, TypeError, IndexError, KeyError, ValueError) as error:
        raise ModelError(
            f"the configuration of the {component} in the checkpoint's metadata is not in the reference's "
            f"form: {type(error).__name__} {error}; download the checkpoint again"
        ) from error
    if component == "vocoder":
        config["_class_name"] = version.classes["vocoder"]
    return config


def _renamed(stored: Stored, names: Mapping[str, str]) -> Config:
    return {name: stored[key] for key, name in names.items() if key in stored}


def _rope(stored: Stored) -> Config:
    config = _renamed(stored, {"rope_type": "rope_type", "positional_embedding_theta": "rope_theta"})
    if "frequencies_precision" in stored:
        config["rope_double_precision"] = stored["frequencies_precision"] == "float64"
    return config


def _transformer(stored: Stored, weights: Weights) -> Config:
    part = stored.get("transformer", {})
    config = _renamed(part, TRANSFORMER_KEYS) | _rope(part)
    if "positional_embedding_max_pos" in part:
        time, height, width = part["positional_embedding_max_pos"]
        config |= {"pos_embed_max_pos": time, "base_height": height, "base_width": width}
    if "audio_positional_embedding_max_pos" in part:
        (config["audio_pos_embed_max_pos"],) = part["audio_positional_embedding_max_pos"]
    if "apply_gated_attention" in part:
        config["gated_attn"] = config["audio_gated_attn"] = part["apply_gated_attention"]
    if "cross_attention_adaln" in part:
        config["cross_attn_mod"] = config["audio_cross_attn_mod"] = part["cross_attention_adaln"]
    if "caption_proj_before_connector" in part:
        config["use_prompt_embeddings"] = not part["caption_proj_before_connector"]
    if "audio_proj_in.weight" in weights:
        config["audio_in_channels"] = weights["audio_proj_in.weight"].shape[1]
    return config


def _connectors(stored: Stored, weights: Weights) -> Config:
    part = stored.get("transformer", {})
    config = _rope(part) | _renamed(part, {"caption_channels": "caption_channels"})
    for modality, prefix in (("video", ""), ("audio", "audio_")):
        for key, name in (
            ("num_attention_heads", "num_attention_heads"),
            ("attention_head_dim", "attention_head_dim"),
            ("num_layers", "num_layers"),
            ("num_learnable_registers", "num_learnable_registers"),
        ):
            # 2.0's file gives one set, which both connectors follow.
            value = part.get(f"{prefix}connector_{key}", part.get(f"connector_{key}"))
            if value is not None:
                config[f"{modality}_connector_{name}"] = value
        if "connector_apply_gated_attention" in part:
            config[f"{modality}_gated_attn"] = part["connector_apply_gated_attention"]
    if "connector_positional_embedding_max_pos" in part:
        config["connector_rope_base_seq_len"] = part["connector_positional_embedding_max_pos"][0]
    return config | _projections(config, weights)


def _projections(config: Config, weights: Weights) -> Config:
    """What only the projections' shapes say: the text encoder's layers, and the widths they lead to."""
    found: Config = {}
    for name, width in (
        ("text_proj_in", None),
        ("video_text_proj_in", "video_hidden_dim"),
        ("audio_text_proj_in", "audio_hidden_dim"),
    ):
        weight = weights.get(f"{name}.weight")
        if weight is None:
            continue
        rows, columns = weight.shape
        channels = config.get("caption_channels")
        if channels:
            found["text_proj_in_factor"] = columns // channels
        found["proj_bias"] = f"{name}.bias" in weights
        if width is not None:
            found[width] = rows
    return found


def _video_vae(stored: Stored, weights: Weights) -> Config:
    part = stored.get("vae", {})
    config = _renamed(
        part,
        {
            "latent_channels": "latent_channels",
            "patch_size": "patch_size",
            "timestep_conditioning": "timestep_conditioning",
            "causal_decoder": "decoder_causal",
        },
    )
    for side in ("encoder", "decoder"):
        # The flat key governs both halves.
        mode = part.get("spatial_padding_mode", part.get(f"{side}_spatial_padding_mode"))
        if mode is not None:
            config[f"{side}_spatial_padding_mode"] = mode
    if "encoder_blocks" in part:
        scaling = _scaling_blocks(part["encoder_blocks"])
        config["downsample_type"] = tuple(SCALING[kind.removesuffix("_res")] for kind, _ in scaling)
        config["layers_per_block"] = _depths(part["encoder_blocks"])
    if "decoder_blocks" in part:
        # Listed from the picture inwards; diffusers wants the kinds alone in the order of computation.
        scaling = _scaling_blocks(part["decoder_blocks"])
        config["upsample_type"] = tuple(SCALING[kind] for kind, _ in reversed(scaling))
        config["upsample_factor"] = tuple(more.get("multiplier", 1) for _, more in scaling)
        config["upsample_residual"] = tuple(bool(more.get("residual", False)) for _, more in scaling)
        config["decoder_layers_per_block"] = _depths(part["decoder_blocks"])
        config["decoder_spatio_temporal_scaling"] = (True,) * len(scaling)
        config["decoder_inject_noise"] = (False,) * (len(scaling) + 1)
    return config | _vae_widths(weights)


def _scaling_blocks(blocks: Blocks) -> list[tuple[str, Stored]]:
    return [(kind, more) for kind, more in blocks if not kind.startswith("res")]


def _depths(blocks: Blocks) -> tuple[int, ...]:
    return tuple(more["num_layers"] for kind, more in blocks if kind.startswith("res"))


def _vae_widths(weights: Weights) -> Config:
    """Widths of the stages; what is not in the weights is left to the table, and found missing later."""
    down = _count(weights, "encoder.down_blocks.{}.downsamplers.0.conv.conv.weight")
    up = _count(weights, "decoder.up_blocks.{}.upsamplers.0.conv.conv.weight")
    stages = [f"encoder.down_blocks.{number}" for number in range(1, down)] + ["encoder.mid_block"]
    outer = [weights.get(f"{stage}.resnets.0.conv1.conv.weight") for stage in stages]
    inner = [weights[f"decoder.up_blocks.{n}.upsamplers.0.conv.conv.weight"].shape[1] for n in range(up)]
    config: Config = {"decoder_block_out_channels": tuple(reversed(inner))} if inner else {}
    if down and None not in outer:
        config["block_out_channels"] = tuple(weight.shape[0] for weight in outer if weight is not None)
    return config


def _count(weights: Weights, pattern: str) -> int:
    number = 0
    while pattern.format(number) in weights:
        number += 1
    return number


def _audio_vae(stored: Stored, weights: Weights) -> Config:
    part = stored.get("audio_vae", {})
    params = part.get("model", {}).get("params", {})
    config = _renamed(params.get("ddconfig", {}), AUDIO_VAE_KEYS)
    config |= _renamed(params, {"sampling_rate": "sample_rate"})
    stft = part.get("preprocessing", {}).get("stft", {})
    return config | _renamed(stft, {"hop_length": "mel_hop_length", "causal": "is_causal"})


def _vocoder(stored: Stored, weights: Weights) -> Config:
    part = stored.get("vocoder", {})
    config = _renamed(part.get("vocoder", part), VOCODER_KEYS)
    bandwidth = part.get("bwe", {})
    config |= {f"bwe_{name}": value for name, value in _renamed(bandwidth, VOCODER_KEYS).items()}
    config |= _renamed(bandwidth, BANDWIDTH_KEYS)
    if "n_fft" in bandwidth:
        # Released files name no window: it is as long as the transform (ltx2-facts section 9).
        config["window_length"] = bandwidth.get("win_size", bandwidth["n_fft"])
    for name, key in (
        ("conv_in.weight", "in_channels"),
        ("vocoder.conv_in.weight", "in_channels"),
        ("bwe_generator.conv_in.weight", "bwe_in_channels"),
    ):
        if name in weights:
            config[key] = weights[name].shape[1]
    return config
