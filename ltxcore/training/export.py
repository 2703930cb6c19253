"""The finished LoRA as files: for diffusers and for ComfyUI, each with its lineage in the header."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ltxcore.config.recipe import Recipe
from ltxcore.models.reference_names import REFERENCE_MODULES
from ltxcore.store.blobs import sync_directory

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
COMFYUI_SUFFIX = "_comfyui.safetensors"
ADAPTER_METADATA = "lora_adapter_metadata"
"""The header key where diffusers looks for the adapter's rank, alpha and targets."""


@dataclass(frozen=True)
class Lineage:
    """What a LoRA was made of."""

    base_fingerprint: str
    snapshot_id: str
    recipe: Recipe
    reference_factors: tuple[int, int] | None = None
    """How many times smaller references are, and how many times fewer frames a second they have; None: a
    LoRA without references."""


def export_lora(
    directory: Path, name: str, weights: Mapping[str, torch.Tensor], lineage: Lineage
) -> tuple[Path, Path]:
    """Write `pytorch_lora_weights.safetensors` (diffusers) and `<name>_comfyui.safetensors`.

    The diffusers file holds the trained float32 weights, with rank and alpha in its header. ComfyUI and
    the reference ignore alpha, so their file has alpha / rank multiplied into B; it is bf16 and uses the
    reference's module names. `LTX2Pipeline.load_lora_weights` reads either.

    Args:
        directory: created if need be.
        name: begins the ComfyUI file's name.
        weights: `lora_parameters` of the transformer.
        lineage: goes into both headers.

    Returns:
        The diffusers file, the ComfyUI file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in weights.items()}
    rank, alpha = lineage.recipe.lora.lora_rank, lineage.recipe.lora.alpha
    diffusers_file, comfyui_file = directory / DIFFUSERS_FILE, directory / f"{name}{COMFYUI_SUFFIX}"

    adapter = {
        "transformer.r": rank,
        "transformer.lora_alpha": alpha,
        "transformer.target_modules": sorted({key.rsplit(".lora_", 1)[0] for key in tensors}),
    }
    header = _header(lineage, alpha_in_file=alpha)
    header[ADAPTER_METADATA] = json.dumps(adapter, sort_keys=True)
    _publish({f"transformer.{key}": tensor for key, tensor in tensors.items()}, diffusers_file, header)
    _publish(comfyui_weights(tensors, alpha / rank), comfyui_file, _header(lineage, alpha_in_file=rank))
    return diffusers_file, comfyui_file


def comfyui_weights(weights: Mapping[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
    """bf16 weights under the reference's names, `scale` (alpha / rank) multiplied into B."""
    return {
        f"diffusion_model.{reference_name(key)}": (
            tensor.float() * scale if key.endswith("lora_B.weight") else tensor
        ).to(torch.bfloat16)
        for key, tensor in weights.items()
    }


def reference_name(name: str) -> str:
    """A transformer module's (or its LoRA's) name in the reference, from its name in diffusers."""
    first, dot, rest = name.partition(".")
    return f"{REFERENCE_MODULES.get(first, first)}{dot}{rest}"


def _header(lineage: Lineage, alpha_in_file: float) -> dict[str, str]:
    settings = lineage.recipe.lora
    space, time = lineage.reference_factors or (None, None)
    references = {"reference_downscale_factor": space, "reference_temporal_scale_factor": time}
    return {
        **{key: str(factor) for key, factor in references.items() if factor is not None},
        "format": "pt",
        "base_fingerprint": lineage.base_fingerprint,
        "snapshot_id": lineage.snapshot_id,
        "recipe": lineage.recipe.model_dump_json(),
        "trigger": "none",
        "rank": str(settings.lora_rank),
        "trained_alpha": str(settings.alpha),
        "alpha": str(float(alpha_in_file)),
    }


def _publish(tensors: dict[str, torch.Tensor], path: Path, header: Mapping[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    save_file(tensors, temporary, metadata=dict(header))
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)
