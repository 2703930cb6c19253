"""The types that models compute in, as torch has them."""

from __future__ import annotations

import torch

from ltxcore.config.value_types import BF16_BYTES, FP32_BYTES, type_bytes

_TYPES = {BF16_BYTES: torch.bfloat16, FP32_BYTES: torch.float32}


def torch_type(name: str) -> torch.dtype:
    """The type that a recipe calls `bf16`, `fp32` or `no`."""
    return _TYPES[type_bytes(name)]
