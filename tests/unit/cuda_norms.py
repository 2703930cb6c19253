"""RMSNorm that keeps for backward what CUDA's one kernel keeps: its input and one value a row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn


@contextmanager
def cuda_norms() -> Iterator[None]:
    """Within, norms are so on the CPU too, whose own consist of several operations."""
    with mock.patch.object(nn.functional, "rms_norm", _FusedNorm.run):
        yield


class _FusedNorm(torch.autograd.Function):
    @staticmethod
    def run(x: torch.Tensor, shape: Any, weight: torch.Tensor | None, eps: float) -> torch.Tensor:
        found: torch.Tensor = _FusedNorm.apply(x, weight, eps)
        return found

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor | None, eps: float) -> torch.Tensor:
        wide = x.float()
        inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, inverse, weight)
        normed = wide * inverse
        return (normed if weight is None else normed * weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        x, inverse, weight = ctx.saved_tensors
        normed = x.float() * inverse
        wide = gradient.float() if weight is None else gradient.float() * weight
        along = (wide * normed).mean(-1, keepdim=True)
        return ((wide - normed * along) * inverse).to(x.dtype), None, None
