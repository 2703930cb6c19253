"""The frozen weight below an adapter."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ltxcore.training.shards import whole


def _base_weight(layer: Any) -> torch.Tensor:
    return whole(frozen_weight(layer.get_base_layer()))


def frozen_weight(linear: nn.Module) -> torch.Tensor:
    """The weight of a base linear as float32 [out, in], from any precision."""
    from peft.utils.integrations import dequantize_module_weight

    weight = dequantize_module_weight(linear)
    if is_traceable_wrapper_subclass(weight):
        weight = weight.dequantize()
    return weight.detach().float()
