"""Quantises the weights of linears while they are loaded, one at a time.

Each library has its own linear; `prepare` puts it in the place of the plain one while all is on the meta
device, `fill` gives it its weight. No weight is held twice, and never more than one unquantised.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from ltxcore.config.weight_precisions import Precision
from ltxcore.models.files.precisions import require_library

_CHUNK_VALUES = 1 << 22


class Quantiser(Protocol):
    """How a library quantises a linear."""

    def prepare(self, linear: nn.Linear, dtype: torch.dtype, device: torch.device) -> nn.Module:
        """The module that takes the linear's place; its weight and bias are still on the meta device."""

    def fill(self, module: Any, weight: torch.Tensor) -> None:
        """Quantise `weight` [out, in], which is on its device already, into the module."""


def quantiser_of(precision: Precision) -> Quantiser:
    """The quantiser of a precision.

    Raises:
        ModelError: its library is not installed.
    """
    require_library(precision)
    kinds: dict[str, type[Quanto | TorchAo | BitsAndBytes]] = {
        "quanto": Quanto,
        "torchao": TorchAo,
        "bitsandbytes": BitsAndBytes,
    }
    return kinds[precision.library](precision.kind)


class FrozenForward:
    """The forward pass of a quanto linear whose weight is not trained.

    quanto keeps the input of every linear for a gradient of the weight that nobody asks for. This keeps the
    quantised weight alone; results and the input's gradient are quanto's own, to the bit.
    """

    def __init__(self, module: Any) -> None:
        self._module = module

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self._module.qweight, self._module.bias
        if weight.requires_grad or (bias is not None and bias.requires_grad):
            return nn.functional.linear(x, weight, bias=bias)
        found: torch.Tensor = _FrozenLinear.apply(x, weight, bias)
        return found


class _FrozenLinear(torch.autograd.Function):
    """x Wᵀ + b, for a W that only multiplies."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(weight)
        return nn.functional.linear(x, weight, bias=bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return torch.matmul(gradient, weight), None, None


class Quanto(Quantiser):
    """optimum-quanto: weights only, one scale a row, or a scale and shift for 128 values in few bits."""

    def __init__(self, kind: str) -> None:
        from optimum.quanto import qtypes

        self._qtype = qtypes[kind]

    def prepare(self, linear: nn.Linear, dtype: torch.dtype, device: torch.device) -> nn.Module:
        from optimum.quanto import QLinear

        module = QLinear.qcreate(linear, weights=self._qtype, device=torch.device("meta"))
        module.forward = FrozenForward(module)
        # Activations are not quantised: these two stay at one.
        module.input_scale = torch.ones((), dtype=dtype, device=device)
        module.output_scale = torch.ones((), dtype=dtype, device=device)
        return module

    def fill(self, module: Any, weight: torch.Tensor) -> None:
        if module.weight_group_size is None and self._qtype.bits == 8:
            module.weight = nn.Parameter(self._by_rows(module.optimizer, weight), requires_grad=False)
            return
        module.weight = nn.Parameter(weight, requires_grad=False)
        module.freeze()
        module.weight.requires_grad_(False)

    def _by_rows(self, optimizer: Any, weight: torch.Tensor) -> torch.Tensor:
        """What the library makes of an 8-bit weight, some rows at a time.

        Each row has its own scale, so the result is the same; the library's work space is four times the
        weight, and would be the peak of a load.
        """
        from optimum.quanto import WeightQBytesTensor

        values = torch.empty(weight.shape, dtype=self._qtype.dtype, device=weight.device)
        scales = weight.new_empty(weight.shape[0], 1)
        step = max(1, _CHUNK_VALUES // weight.shape[1])
        for begin in range(0, weight.shape[0], step):
            rows = slice(begin, begin + step)
            scales[rows] = optimizer(weight[rows], qtype=self._qtype, axis=0)
            values[rows] = torch.ops.quanto.quantize_symmetric(
                weight[rows], dtype=self._qtype.dtype, axis=0, scale=scales[rows]
            )
        made: torch.Tensor = WeightQBytesTensor.create(
            self._qtype, 0, weight.size(), weight.stride(), values, scales
        )
        return made


class TorchAo(Quantiser):
    """torchao's weight-only configurations, which replace a linear's weight by a tensor of their own."""

    def __init__(self, kind: str) -> None:
        from torchao import quantization

        self._config = getattr(quantization, kind)()

    def prepare(self, linear: nn.Linear, dtype: torch.dtype, device: torch.device) -> nn.Module:
        return linear

    def fill(self, module: Any, weight: torch.Tensor) -> None:
        from torchao.quantization import quantize_

        module.weight = nn.Parameter(weight, requires_grad=False)
        quantize_(module, self._config)
        module.weight.requires_grad_(False)


class BitsAndBytes(Quantiser):
    """bitsandbytes' four-bit linears."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def prepare(self, linear: nn.Linear, dtype: torch.dtype, device: torch.device) -> nn.Module:
        from bitsandbytes.nn import Linear4bit

        return Linear4bit(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            compute_dtype=dtype,
            quant_type=self._kind,
            device="meta",
        )

    def fill(self, module: Any, weight: torch.Tensor) -> None:
        from bitsandbytes.nn import Params4bit

        parameter = Params4bit(weight, requires_grad=False, quant_type=self._kind, module=module)
        # Moving to a device, its own included, is what quantises.
        module.weight = parameter.to(weight.device)
