"""Tiny latent upsamplers of the real class, with random weights, in both layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ltxcore.models.files.source import ModelSource
from ltxcore.models.tiny.model import seeded


def tiny_upsampler(source: ModelSource, **changes: Any) -> Any:
    """An upsampler of the latents of a tiny model, in the configuration of its version."""
    from diffusers.pipelines.ltx2 import LTX2LatentUpsamplerModel

    small = {
        "in_channels": source.config("vae")["latent_channels"],
        "mid_channels": 32,
        "num_blocks_per_stage": 1,
    }
    with seeded(11):
        return LTX2LatentUpsamplerModel(**{**source.version.upsampler, **small, **changes}).eval()


def write_folder(model: Any, directory: Path) -> Path:
    """In the diffusers layout, as the folder latent_upsampler of a directory."""
    model.save_pretrained(directory / "latent_upsampler", safe_serialization=True)
    return directory


def write_file(model: Any, file: Path, **metadata: str) -> Path:
    """As Lightricks publishes it: one file, whose metadata has the configuration in the reference's names."""
    own = {key: value for key, value in dict(model.config).items() if not key.startswith("_")}
    own["spatial_scale"] = own.pop("rational_spatial_scale")
    own["rational_resampler"] = own.pop("use_rational_resampler")
    config = json.dumps({"_class_name": "LatentUpsampler", **own})
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, file, {"config": config, **metadata}
    )
    return file


def random_like(model: torch.nn.Module, scale: float = 0.1) -> None:
    """Give every parameter other values."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=scale)
