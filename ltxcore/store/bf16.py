"""bf16 tensors as the uint16 bits that Zarr and Arrow, which have no bfloat16, can keep; exact both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

Bits = np.ndarray[Any, np.dtype[np.uint16]]


def to_bits(tensor: torch.Tensor) -> Bits:
    """The bits, uint16 [...], of a tensor [...], which is rounded to bf16 if it has another type."""
    import torch

    bits: Bits = tensor.to(torch.bfloat16).contiguous().cpu().view(torch.int16).numpy().view(np.uint16)
    return bits


def from_bits(bits: Bits) -> torch.Tensor:
    """The bf16 tensor [...] of bits [...]; a copy, because stored bits may be mapped read-only."""
    import torch

    return torch.from_numpy(bits.view(np.int16).copy()).view(torch.bfloat16)
