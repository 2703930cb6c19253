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

from ltxcore.config.lora_settings import LoraSettings
from ltxcore.config.recipe import Recipe
from ltxcore.models.lycoris import is_lycoris
from ltxcore.models.reference_names import REFERENCE_MODULES
from ltxcore.store.blobs import sync_directory
from ltxcore.training.adapters import MAGNITUDE, Adapter

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
COMFYUI_SUFFIX = "_comfyui.safetensors"
ADAPTER_METADATA = "lora_adapter_metadata"
"""The header key where diffusers looks for the adapter's rank, alpha and targets."""
CARRIERS = ("lora_B.weight", "lokr_w1", "lokr_w1_a", "hada_w1_a")
"""The factor of each kind that the scale is multiplied into; a LoKr has one of its two."""


@dataclass(frozen=True)
class Lineage:
    """What a LoRA was made of."""

    base_fingerprint: str
    snapshot_id: str
    recipe: Recipe
    trigger: str = ""
    """The words that call what was trained; none where the captions describe all of it."""
    reference_factors: tuple[int, int] | None = None
    """How many times smaller references are, and how many times fewer frames a second they have; None: a
    LoRA without references."""


def export_lora(
    directory: Path, name: str, adapter: Adapter, lineage: Lineage, suffix: str = ""
) -> tuple[Path, Path]:
    """Write `pytorch_lora_weights.safetensors` (diffusers) and `<name>_comfyui.safetensors`.

    The diffusers file holds the trained float32 weights, with rank, alpha and kind in its header; a LoKr's or
    LoHa's have their scale in them, as peft's kinds have no such header. ComfyUI and the reference ignore
    alpha, so their file has the scale in it always; it is bf16 and uses the reference's module names.
    `LTX2Pipeline.load_lora_weights` reads either file of a LoRA, and the diffusers file of a DoRA.

    Args:
        directory: created if need be.
        name: begins the ComfyUI file's name.
        adapter: `take_adapter` of the transformer.
        lineage: goes into both headers.
        suffix: goes into both names, e.g. `_ema`.

    Returns:
        The diffusers file, the ComfyUI file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    settings = lineage.recipe.lora
    plain = directory / DIFFUSERS_FILE
    diffusers_file = plain.with_stem(f"{plain.stem}{suffix}")
    comfyui_file = directory / f"{name}{suffix}{COMFYUI_SUFFIX}"
    header = _header(lineage, alpha_in_file=settings.alpha)
    if settings.lycoris is None:
        header[ADAPTER_METADATA] = json.dumps(_peft_header(settings, adapter), sort_keys=True)
    weights = {f"transformer.{key}": value for key, value in diffusers_weights(adapter).items()}
    _publish(weights, diffusers_file, header)
    _publish(comfyui_weights(adapter), comfyui_file, _header(lineage, alpha_in_file=settings.lora_rank))
    return diffusers_file, comfyui_file


def diffusers_weights(adapter: Adapter) -> dict[str, torch.Tensor]:
    """float32 weights as peft names them in files."""
    return {
        key.removesuffix(".weight") if key.endswith(MAGNITUDE) else key: _scaled(adapter, key, tensor)
        if is_lycoris([key])
        else tensor
        for key, tensor in adapter.weights.items()
    }


def comfyui_weights(adapter: Adapter) -> dict[str, torch.Tensor]:
    """bf16 weights under the reference's names, each module's scale multiplied into one factor."""
    found = {}
    for key, tensor in adapter.weights.items():
        name = reference_name(key)
        if key.endswith(MAGNITUDE):
            module = key.removesuffix(f".{MAGNITUDE}")
            name = f"{reference_name(module)}.dora_scale"
            # ComfyUI multiplies W + scale·BA by dora_scale / |W|, where DoRA has m / |W + scale·BA|.
            base, adapted = adapter.lengths[module]
            tensor = (tensor * base / adapted)[:, None]
        else:
            tensor = _scaled(adapter, key, tensor)
        # The lengths stay float32: in bf16 they would be wrong by as much as a small change is large.
        dtype = torch.float32 if key.endswith(MAGNITUDE) else torch.bfloat16
        found[f"diffusion_model.{name}"] = tensor.to(dtype).contiguous()
    return found


def _scaled(adapter: Adapter, key: str, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, with its module's scale where it is the factor that carries it."""
    module, carrier = next(
        ((key.removesuffix(f".{end}"), end) for end in CARRIERS if key.endswith(f".{end}")), ("", "")
    )
    return tensor * adapter.scales[module] if carrier else tensor


def reference_name(name: str) -> str:
    """A transformer module's (or its LoRA's) name in the reference, from its name in diffusers."""
    first, dot, rest = name.partition(".")
    return f"{REFERENCE_MODULES.get(first, first)}{dot}{rest}"


def _peft_header(settings: LoraSettings, adapter: Adapter) -> dict[str, Any]:
    return {
        "transformer.r": settings.lora_rank,
        "transformer.lora_alpha": settings.alpha,
        "transformer.use_rslora": settings.use_rslora,
        "transformer.use_dora": settings.use_dora,
        "transformer.target_modules": sorted(adapter.scales),
    }


def _header(lineage: Lineage, alpha_in_file: float) -> dict[str, str]:
    settings = lineage.recipe.lora
    space, time = lineage.reference_factors or (None, None)
    references = {"reference_downscale_factor": space, "reference_temporal_scale_factor": time}
    told = {
        **{key: str(factor) for key, factor in references.items() if factor is not None},
        "format": "pt",
        "base_fingerprint": lineage.base_fingerprint,
        "snapshot_id": lineage.snapshot_id,
        "recipe": lineage.recipe.model_dump_json(),
        "trigger": lineage.trigger,
    }
    if settings.lycoris is not None:
        return {**told, "algo": settings.lycoris.algo}
    return {
        **told,
        "algo": "dora" if settings.use_dora else "lora",
        "rank": str(settings.lora_rank),
        "trained_alpha": str(settings.alpha),
        "trained_scale": str(settings.scale),
        "alpha": str(float(alpha_in_file)),
    }


def _publish(tensors: dict[str, torch.Tensor], path: Path, header: Mapping[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    save_file(tensors, temporary, metadata=dict(header))
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)
