"""LoRA files as several trainers write them, of the tiny model's layers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ltxcore.models.lora.names import reference_name
from tests.rounding import bound

Pair = tuple[torch.Tensor, torch.Tensor]
LAYERS = ("transformer_blocks.0.attn1.to_q", "transformer_blocks.1.audio_attn1.to_out.0", "audio_proj_in")


def shapes_of(transformer: Any) -> dict[str, tuple[int, int]]:
    """Layer -> [out, in]."""
    return {
        n: tuple(m.weight.shape) for n, m in transformer.named_modules() if isinstance(m, torch.nn.Linear)
    }


def draw(
    shapes: Mapping[str, tuple[int, int]], layers: Any = LAYERS, rank: int = 4, seed: int = 0
) -> dict[str, Pair]:
    """Layer -> A [r, in] and B [out, r]."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.1

    return {name: (noise(rank, shapes[name][1]), noise(shapes[name][0], rank)) for name in layers}


def rounding(rank: int = 4) -> float:
    """The share by which two ways of computing a change in float32 differ: a sum and two scalings."""
    return bound(rank + 2, 1.0)


def changes(pairs: Mapping[str, Pair], scale: float = 1.0) -> dict[str, torch.Tensor]:
    """Layer -> what is added to its weight."""
    return {name: scale * (b @ a) for name, (a, b) in pairs.items()}


def write(
    file: Path,
    pairs: Mapping[str, Pair],
    style: str = "diffusers",
    alpha: float | None = None,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """A file as a kind of trainer writes it.

    Args:
        style: diffusers, comfyui, ai-toolkit (bare), peft, kohya, mixed, unmapped (SimpleTuner's for ComfyUI,
            which leaves diffusers' names of the ways in and out as they are).
        alpha: as a tensor of each layer; in the header for diffusers.
    """
    tensors: dict[str, torch.Tensor] = {}
    header = dict(metadata or {})
    for number, (name, (a, b)) in enumerate(pairs.items()):
        theirs = reference_name(name)
        prefix, names = {
            "diffusers": (f"transformer.{name}", ("lora_A.weight", "lora_B.weight")),
            "comfyui": (f"diffusion_model.{theirs}", ("lora_A.weight", "lora_B.weight")),
            "bare": (theirs, ("lora_A.weight", "lora_B.weight")),
            "default": (f"transformer.{name}", ("lora_A.default.weight", "lora_B.default.weight")),
            "down": (f"diffusion_model.{theirs}", ("lora_down.weight", "lora_up.weight")),
            "kohya": (f"lora_unet_{theirs.replace('.', '_')}", ("lora_down.weight", "lora_up.weight")),
            "unmapped": (f"diffusion_model.{name}", ("lora_A.weight", "lora_B.weight")),
            "mixed": (
                f"transformer.{name}" if number else f"diffusion_model.{theirs}",
                ("lora_A.weight", "lora_B.weight"),
            ),
        }[style]
        tensors[f"{prefix}.{names[0]}"] = a.to(dtype).contiguous()
        tensors[f"{prefix}.{names[1]}"] = b.to(dtype).contiguous()
        if alpha is not None and style != "diffusers":
            tensors[f"{prefix}.alpha"] = torch.tensor(alpha)
    if alpha is not None and style == "diffusers":
        text = {"r": len(next(iter(pairs.values()))[0]), "lora_alpha": alpha, "target_modules": list(pairs)}
        header["lora_adapter_metadata"] = json.dumps({f"transformer.{k}": v for k, v in text.items()})
    save_file(tensors, file, metadata=header or None)
    return file


def applied(model: Path, file: Path) -> dict[str, torch.Tensor]:
    """Layer -> what `LTX2Pipeline.load_lora_weights` adds to its weight; nothing where it adds zero.

    Raises:
        ValueError, IndexError: it refuses the file, or has left a layer without values.
    """
    from diffusers import LTX2Pipeline
    from peft.tuners.lora import LoraLayer

    pipeline = LTX2Pipeline.from_pretrained(model)
    pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name="x")
    found = {}
    for name, module in pipeline.transformer.named_modules():
        if isinstance(module, LoraLayer) and "x" in module.lora_A:
            change = module.scaling["x"] * (module.lora_B["x"].weight @ module.lora_A["x"].weight)
            if change.is_meta:
                raise ValueError(f"{name} has no values")
            if change.any():
                found[name] = change.detach()
    return found
