"""The finished LoRA as files: for diffusers and for ComfyUI, each with its lineage in the header."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ltxcore.config.data_defaults import REFERENCE_FACTORS
from ltxcore.config.lora_files import comfyui_file, diffusers_file
from ltxcore.config.lora_settings import LoraSettings
from ltxcore.config.recipe import Recipe
from ltxcore.models.files.writing import tensor_bytes
from ltxcore.models.lora.base_version import OWN_KEY
from ltxcore.models.lora.header import ADAPTER_METADATA
from ltxcore.models.lora.names import reference_name
from ltxcore.models.lycoris import is_lycoris
from ltxcore.store.blobs import write_atomic
from ltxcore.training.adapters import MAGNITUDE, Adapter

CARRIERS = ("lora_B.weight", "lokr_w1", "lokr_w1_a", "hada_w1_a")
"""The factor of each kind that the scale is multiplied into; a LoKr has one of its two."""


@dataclass(frozen=True)
class Lineage:
    """The origin of a LoRA: base, snapshot, recipe and trigger."""

    base_fingerprint: str
    snapshot_id: str
    recipe: Recipe
    trigger: str = ""
    """The words that call what was trained; none where the captions describe all of it."""
    base_version: str = ""
    """Of LTX-2, such as `2.3`."""
    reference_factors: tuple[tuple[int, int], ...] = ()
    """How many times smaller each reference is, and how many times fewer frames a second it has; none: a LoRA
    without references."""


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
    for_diffusers = directory / diffusers_file(suffix)
    for_comfyui = directory / comfyui_file(suffix, name)
    header = _header(lineage, alpha_in_file=settings.alpha)
    if settings.lycoris is None:
        header[ADAPTER_METADATA] = json.dumps(_peft_header(settings, adapter), sort_keys=True)
    weights = {f"transformer.{key}": value for key, value in diffusers_weights(adapter).items()}
    _publish(weights, for_diffusers, header)
    _publish(comfyui_weights(adapter), for_comfyui, _header(lineage, alpha_in_file=settings.lora_rank))
    return for_diffusers, for_comfyui


def diffusers_weights(adapter: Adapter) -> dict[str, torch.Tensor]:
    """float32 weights by peft's names in files, e.g. lora_A.weight [rank, in], lora_B.weight [out, rank]."""
    return {
        key.removesuffix(".weight") if key.endswith(MAGNITUDE) else key: _scaled(adapter, key, tensor)
        if is_lycoris([key])
        else tensor
        for key, tensor in adapter.weights.items()
    }


def comfyui_weights(adapter: Adapter) -> dict[str, torch.Tensor]:
    """bf16 weights by the reference's names, e.g. lora_A [rank, in], the module's scale multiplied in."""
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
    """The tensor, multiplied by its module's scale if it is the factor that carries the scale."""
    module, carrier = next(
        ((key.removesuffix(f".{end}"), end) for end in CARRIERS if key.endswith(f".{end}")), ("", "")
    )
    return tensor * adapter.scales[module] if carrier else tensor


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
    values = {
        **_reference_header(lineage.reference_factors),
        "format": "pt",
        **({OWN_KEY: lineage.base_version} if lineage.base_version else {}),
        "base_fingerprint": lineage.base_fingerprint,
        "snapshot_id": lineage.snapshot_id,
        "recipe": lineage.recipe.model_dump_json(),
        "trigger": lineage.trigger,
    }
    if settings.lycoris is not None:
        return {**values, "algo": settings.lycoris.algo}
    return {
        **values,
        "algo": "dora" if settings.use_dora else "lora",
        "rank": str(settings.lora_rank),
        "trained_alpha": str(settings.alpha),
        "trained_scale": str(settings.scale),
        "alpha": str(float(alpha_in_file)),
    }


def _reference_header(factors: Sequence[tuple[int, int]]) -> dict[str, str]:
    """The keys that ComfyUI reads, a number for all references, and a list where there are several."""
    header = {}
    for key, each in zip(REFERENCE_FACTORS, zip(*factors, strict=True), strict=False):
        if len(set(each)) == 1:
            header[key] = str(each[0])
        if len(each) > 1:
            header[f"{key}s"] = json.dumps(each)
    return header


def _publish(tensors: dict[str, torch.Tensor], path: Path, header: Mapping[str, Any]) -> None:
    # Through bytes: written by safetensors itself, a full disk would be no OSError.
    write_atomic(path, tensor_bytes(tensors, header))
