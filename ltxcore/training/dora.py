"""DoRA (arXiv:2402.09353) for base weights of any kind, including quantised and streamed ones.

peft's own layer casts the base weight and multiplies by it, which a weight in few bits does not allow.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.dora import DoraLinearLayer
from torch import nn

from ltxcore.training.base_weights import frozen_weight


class DoraLinear(DoraLinearLayer):
    """DoRA's addition to a linear's output: m/|W + sBA| · (W + sBA)x - Wx, with |…| by rows and not
    trained."""

    def forward(
        self,
        x: torch.Tensor,
        *,
        lora_A: nn.Module,
        lora_B: nn.Module,
        scaling: float,
        base_layer: nn.Module,
        base_result: torch.Tensor | None = None,
        adapter_name: str = "default",
    ) -> torch.Tensor:
        """The addition, [..., out], for inputs [..., in]; `base_result` is Wx with its bias, if known."""
        with torch.no_grad():
            change = scaling * (lora_B.weight.float() @ lora_A.weight.float())
            length = (frozen_weight(base_layer) + change).norm(dim=1)
        ratio = self.weight / length
        plain = base_layer(_as_taken(x, base_layer.weight)) if base_result is None else base_result
        if base_layer.bias is not None:
            plain = plain - base_layer.bias
        added: torch.Tensor = (ratio - 1) * plain + ratio * scaling * lora_B(lora_A(x))
        return added


def _as_taken(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """An input in the dtype that a linear computes in; packed weights say nothing of it."""
    return x.to(weight.dtype) if weight.is_floating_point() else x


def replace_peft_layers(transformer: nn.Module, adapter_name: str) -> None:
    """Replace peft's DoRA layers by `DoraLinear`, keeping their parameters."""
    for module in transformer.modules():
        layers: Any = getattr(module, "lora_magnitude_vector", None)
        if layers is not None and adapter_name in layers:
            layer = DoraLinear(fan_in_fan_out=False)
            layer.weight = layers[adapter_name].weight
            layers[adapter_name] = layer
