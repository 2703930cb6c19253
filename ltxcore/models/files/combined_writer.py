"""Writing a combined checkpoint in the reference's layout, from a model in the diffusers layout.

This writes small ones for tests, in every storage type, with the metadata of the reference implementation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ltxcore.config.published import Storage
from ltxcore.models.files.combined import COMBINED_COMPONENTS
from ltxcore.models.files.precisions import quantised_names
from ltxcore.models.files.reading import Reader
from ltxcore.models.files.reference_config import (
    AUDIO_VAE_KEYS,
    BANDWIDTH_KEYS,
    SCALING,
    TRANSFORMER_KEYS,
    VOCODER_KEYS,
)
from ltxcore.models.files.reference_names import STATISTICS_UNREAD, WITH_STATISTICS, statistic, to_reference
from ltxcore.models.files.scaled_values import encode_fp4, encode_fp8
from ltxcore.models.files.source import ModelSource
from ltxcore.models.files.text_encoder import SOURCE_KEY, TUNED_KEY
from ltxcore.models.files.weights import BLOCK_SCALE_2, FP4_BLOCK, INPUT_SCALE, SCALE, Weight, padded_scales
from ltxcore.models.files.writing import Part, Pending, write_tensor_file

Config = Mapping[str, Any]
_CLASSES = {"transformer": "AVTransformer3DModel", "vae": "CausalVideoAutoencoder"}
_KINDS = {scaling: kind for kind, scaling in SCALING.items()}


def write_combined(source: ModelSource, path: Path, storage: Storage = "bf16") -> None:
    """Write transformer, connectors, VAEs and vocoder of a model as one file.

    Values become bf16; in fp8 and fp4 the linears of the transformer's blocks are scaled and rounded.

    Args:
        source: a model in the diffusers layout.

    Raises:
        ModelError: a component is missing.
    """
    pending: list[Pending] = []
    with Reader("cpu") as reader:
        for component in COMBINED_COMPONENTS:
            weights = source.weights(component)
            scaled = (
                quantised_names(component, source.shapes(component)) if storage != "bf16" else frozenset()
            )
            for name, weight in weights.items():
                reference = to_reference(component, name)
                kind = storage if name in scaled and not weight.shape[1] % FP4_BLOCK else "bf16"
                pending.append(_pending(reference, weight, kind, reader))
            if component in WITH_STATISTICS:
                pending += _unread_statistics(component, weights["latents_mean"].shape)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensor_file(path, pending, reference_metadata(source))


def _pending(name: str, weight: Weight, storage: Storage, reader: Reader) -> Pending:
    stem = name.removesuffix(".weight")
    one = partial(Part, dtype=torch.float32, shape=())
    read = partial(reader.read, weight, torch.bfloat16)
    if storage == "bf16":
        return Pending((Part(name, torch.bfloat16, weight.shape),), lambda: [read()])
    rows, columns = weight.shape
    if storage == "fp8":
        parts = (Part(name, torch.float8_e4m3fn, weight.shape), one(stem + SCALE), one(stem + INPUT_SCALE))
        return Pending(parts, lambda: [*encode_fp8(read()), torch.ones(())])

    def packed() -> list[torch.Tensor]:
        made = encode_fp4(read())
        return [made.packed, made.block_scales, made.scale]

    return Pending(
        (
            Part(name, torch.uint8, (rows, columns // 2)),
            Part(stem + SCALE, torch.float8_e4m3fn, padded_scales(rows, columns)),
            one(stem + BLOCK_SCALE_2),
        ),
        packed,
    )


def _unread_statistics(component: str, shape: tuple[int, ...]) -> list[Pending]:
    """The statistics that released files hold and no model reads; NaN, so that reading one would show."""
    return [
        Pending(
            (Part(statistic(component, name), torch.bfloat16, shape),),
            lambda: [torch.full(shape, torch.nan, dtype=torch.bfloat16)],
        )
        for name in STATISTICS_UNREAD
    ]


def reference_metadata(source: ModelSource) -> dict[str, str]:
    """The metadata of a combined checkpoint, as the reference writes them."""
    configs = {component: source.config(component) for component in COMBINED_COMPONENTS}
    stored = {
        "transformer": _transformer(configs["transformer"], configs["connectors"]),
        "vae": _video_vae(configs["vae"]),
        "audio_vae": _audio_vae(configs["audio_vae"]),
        "vocoder": _vocoder(configs["vocoder"]),
        "scheduler": {"_class_name": "RectifiedFlowScheduler", "num_train_timesteps": 1000},
    }
    return {
        "format": "pt",
        "config": json.dumps(stored),
        "model_version": f"{source.version.name}.0",
        SOURCE_KEY: _text_encoder_of(source),
    }


def _text_encoder_of(source: ModelSource) -> str:
    tuned = source.version.text_encoder.tuned
    if tuned is None:
        return "gemma-3-12b-it-qat-q4_0-unquantized"
    return json.dumps({"ltx_version": f"{source.version.name}.0", TUNED_KEY: tuned})


def _named(config: Config, names: Mapping[str, str], prefix: str = "") -> dict[str, Any]:
    return {key: config[prefix + name] for key, name in names.items() if prefix + name in config}


def _transformer(config: Config, connectors: Config) -> dict[str, Any]:
    gated = bool(config.get("gated_attn"))
    part = {
        "_class_name": _CLASSES["transformer"],
        **_named(config, TRANSFORMER_KEYS),
        "positional_embedding_max_pos": [
            config["pos_embed_max_pos"],
            config["base_height"],
            config["base_width"],
        ],
        "audio_positional_embedding_max_pos": [config["audio_pos_embed_max_pos"]],
        "frequencies_precision": "float64" if config["rope_double_precision"] else "float32",
        "use_embeddings_connector": True,
        "connector_num_attention_heads": connectors["video_connector_num_attention_heads"],
        "connector_attention_head_dim": connectors["video_connector_attention_head_dim"],
        "connector_num_layers": connectors["video_connector_num_layers"],
        "connector_num_learnable_registers": connectors["video_connector_num_learnable_registers"],
        "connector_positional_embedding_max_pos": [connectors["connector_rope_base_seq_len"]],
    }
    if gated:
        part |= {
            "apply_gated_attention": True,
            "cross_attention_adaln": bool(config["cross_attn_mod"]),
            "caption_proj_before_connector": True,
            "connector_apply_gated_attention": True,
            "audio_connector_num_attention_heads": connectors["audio_connector_num_attention_heads"],
            "audio_connector_attention_head_dim": connectors["audio_connector_attention_head_dim"],
        }
    return part


def _video_vae(config: Config) -> dict[str, Any]:
    encoder: list[Any] = [["res_x", {"num_layers": config["layers_per_block"][0]}]]
    for kind, depth in zip(config["downsample_type"], config["layers_per_block"][1:], strict=True):
        encoder += [[f"{_KINDS[kind]}_res", {"multiplier": 2}], ["res_x", {"num_layers": depth}]]
    # From the picture inwards: the kinds are stored in the order of computation, the rest is not.
    decoder: list[Any] = [["res_x", {"num_layers": config["decoder_layers_per_block"][0]}]]
    for kind, factor, residual, depth in zip(
        reversed(config["upsample_type"]),
        config["upsample_factor"],
        config["upsample_residual"],
        config["decoder_layers_per_block"][1:],
        strict=True,
    ):
        decoder.append([_KINDS[kind], {"multiplier": factor, **({"residual": True} if residual else {})}])
        decoder.append(["res_x", {"num_layers": depth}])
    part = {
        "_class_name": _CLASSES["vae"],
        "latent_channels": config["latent_channels"],
        "patch_size": config["patch_size"],
        "encoder_blocks": encoder,
        "decoder_blocks": decoder,
        "causal_decoder": config["decoder_causal"],
        "timestep_conditioning": config["timestep_conditioning"],
    }
    modes = (config["encoder_spatial_padding_mode"], config["decoder_spatial_padding_mode"])
    if modes[0] == modes[1]:
        part["spatial_padding_mode"] = modes[0]
    return part


def _audio_vae(config: Config) -> dict[str, Any]:
    return {
        "model": {
            "params": {"ddconfig": _named(config, AUDIO_VAE_KEYS), "sampling_rate": config["sample_rate"]}
        },
        "preprocessing": {"stft": {"hop_length": config["mel_hop_length"], "causal": config["is_causal"]}},
    }


def _vocoder(config: Config) -> dict[str, Any]:
    part = _named(config, VOCODER_KEYS)
    if "bwe_hidden_channels" not in config:
        return part
    bandwidth = _named(config, VOCODER_KEYS, "bwe_") | _named(config, BANDWIDTH_KEYS)
    if bandwidth.get("win_size") == bandwidth.get("n_fft"):
        # As released files are: the window is as long as the transform.
        bandwidth.pop("win_size", None)
    return {"vocoder": part, "bwe": bandwidth}
