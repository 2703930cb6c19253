"""Frames through CREPA's teacher: patch tokens on the grid of the latents."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional

from ltxcore.models.errors import ModelError
from ltxcore.models.teacher import TeacherSource

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DTYPE = torch.bfloat16


def load_teacher(source: TeacherSource, device: torch.device | str) -> Any:
    """The frozen `Dinov2Model` in bf16, from this machine alone.

    Raises:
        ModelError: the weights are not those of the configuration.
    """
    from transformers import Dinov2Model

    teacher, loading = Dinov2Model.from_pretrained(
        source.root, dtype=DTYPE, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    faults = {
        kind: sorted(map(str, names)) for kind, names in loading.items() if names and kind != "error_msgs"
    }
    # A mask token stands for patches that pretraining hides; nothing is hidden here.
    faults = {kind: kept for kind, names in faults.items() if (kept := [n for n in names if "mask" not in n])}
    if faults:
        faulty = "; ".join(f"{kind}: {', '.join(names[:3])}" for kind, names in faults.items())
        raise ModelError(f"the weights in {source.root} do not fit its configuration ({faulty})")
    return teacher.to(device).eval().requires_grad_(False)


def patch_tokens(
    teacher: Any, frames: np.ndarray[Any, Any], image_size: int, grid: tuple[int, int]
) -> torch.Tensor:
    """Patch tokens after the last norm, without the class token, interpolated to a grid.

    Frames are resized to a square by an antialiased bicubic filter and normalised with ImageNet's
    statistics; the square grid of patches is interpolated bilinearly to the latents' own.

    Args:
        teacher: `Dinov2Model`.
        frames: uint8 `[F, H, W, 3]`.
        image_size: a multiple of the patch.
        grid: height and width of the latents.

    Returns:
        bf16 `[F, height · width, D]` on the CPU.
    """
    device = next(teacher.parameters()).device
    pixels = torch.as_tensor(frames).to(device).permute(0, 3, 1, 2).float() / 255
    size = (image_size, image_size)
    resized = functional.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False)
    mean, std = (
        torch.tensor(values, device=device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    with torch.no_grad():
        states = teacher(((resized.clamp(0, 1) - mean) / std).to(DTYPE)).last_hidden_state
    edge = image_size // teacher.config.patch_size
    patches = states[:, 1:].float().transpose(1, 2).unflatten(2, (edge, edge))
    tokens = functional.interpolate(patches, grid, mode="bilinear", align_corners=False)
    return tokens.flatten(2).transpose(1, 2).to("cpu", torch.bfloat16)
