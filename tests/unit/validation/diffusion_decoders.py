"""Tiny diffusion decoders of the real class, with random weights, in both layouts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

from ltxcore.models.files.source import ModelSource
from ltxcore.models.tiny.model import seeded

SMALL: Final[Mapping[str, Any]] = {
    "decoder_head_dim": 16,
    "decoder_stage_channels": (64, 32, 16, 16, 16),
    "decoder_upsample_channel_reductions": (2, 2, 1, 1),
    "decoder_stage_depths": (1, 1, 1, 1, 2),
    "decoder_stage_kernels": ((3, 2, 2), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    "decoder_stage5_kernel": (5, 5, 5),
    "decoder_t_emb_dim": 16,
}
"""The released configuration but for widths, depths and windows: two latents along an edge suffice for it."""


def tiny_decoder(source: ModelSource, **changes: Any) -> Any:
    """A decoder of the latents of a tiny 2.5."""
    from diffusers import LTX2VideoDiffusionDecoderModel

    released = source.version.diffusion_decoder
    assert released is not None
    channels = source.config("vae")["latent_channels"]
    with seeded(5):
        model = LTX2VideoDiffusionDecoderModel(
            **{**released, **SMALL, "latent_channels": channels, **changes}
        ).eval()
        for name, parameter in model.named_parameters():
            # The class's zeros would hide what is left out.
            if name.endswith("scale_shift_table"):
                parameter.normal_(std=0.1)
    return model


def write_decoder(model: Any, directory: Path) -> Path:
    """In the diffusers layout, as the folder diffusion_decoder of a directory."""
    model.save_pretrained(directory / "diffusion_decoder", safe_serialization=True)
    return directory


def write_pack(model: Any, file: Path, **metadata: str) -> Path:
    """As Lightricks publishes it: the video VAE with this decoder, in the reference's names.

    Gates are powers of two, so that taking them up again is exact.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = dict(_native({name: tensor.clone() for name, tensor in model.state_dict().items()}))
    tensors |= {
        "encoder.conv_in.conv.weight": torch.zeros(8, 48, 3, 3, 3),
        "decoder.type_emb": torch.zeros(3),
        "decoder.coarse_head.weight": torch.zeros(3, 3),
    }
    vae = {"_class_name": "CausalDiffusionVAE", "decoder": _config(model.config)}
    told = {"config": json.dumps({"vae": vae}), **metadata}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, told)
    return file


def _config(config: Any) -> dict[str, Any]:
    upsamples = zip(config.decoder_upsample_strides, config.decoder_upsample_channel_reductions, strict=True)
    return {
        "_class_name": "NADiffusionDecoder",
        "in_channels": config.latent_channels,
        "out_channels": config.out_channels,
        "patch_size": config.patch_size,
        "head_dim": config.decoder_head_dim,
        "stage_channels": config.decoder_stage_channels,
        "stage_depths": config.decoder_stage_depths,
        "stage_kernels": [*config.decoder_stage_kernels, config.decoder_stage5_kernel],
        "upsamples": [list(pair) for pair in upsamples],
        "stage5_kernel": config.decoder_stage5_kernel,
        "t_emb_dim": config.decoder_t_emb_dim,
        "timestep_scale_multiplier": config.decoder_timestep_scale_multiplier,
        "model_output_type": config.decoder_model_output_type,
        "default_num_inference_steps": config.decoder_num_inference_steps,
    }


def _native(tensors: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    for kind, own in (("mean", "latents_mean"), ("std", "latents_std")):
        yield f"per_channel_statistics.{kind}-of-means", tensors.pop(own)
    blocks = {name.rpartition(".context_proj.")[0] for name in tensors if ".context_proj." in name}
    gates = {"msa": 2.0, "mlp": 0.5, "ctx": 4.0}
    for block in blocks:
        for kind, gate in gates.items():
            yield f"{block}.gate_{kind}", torch.full((tensors[f"{block}.norm1.weight"].numel(),), gate)
    for name, tensor in tensors.items():
        block = next((b for b in blocks if name.startswith(f"{b}.")), None)
        if ".attn.to_k." in name or ".attn.to_v." in name:
            continue
        if ".attn.to_q." in name:
            parts = [tensors[name.replace("to_q", part)] for part in ("to_q", "to_k", "to_v")]
            yield name.replace("to_q", "qkv"), torch.cat(parts)
            continue
        stored = tensor
        if block is not None:
            for end, kind in ((".attn.to_out.0.", "msa"), (".mlp.w_down.", "mlp"), (".context_proj.", "ctx")):
                stored = tensor / gates[kind] if end in name else stored
        for own, native in (
            (".attn.to_out.0.", ".attn.proj."),
            (".attn.norm_q.", ".attn.q_norm."),
            (".attn.norm_k.", ".attn.k_norm."),
            ("timestep_embedder.linear_1.", "mlp.0."),
            ("timestep_embedder.linear_2.", "mlp.2."),
        ):
            name = name.replace(own, native)
        yield name, stored
