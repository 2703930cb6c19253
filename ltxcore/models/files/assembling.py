"""Builds a model with little memory: on the meta device first, then each weight is loaded directly into
place.

The peak on the host is what stays there plus one weight and a fixed overhead.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ltxcore.models.errors import ModelError
from ltxcore.models.files.malloc_trim import trim_malloc
from ltxcore.models.files.quantise import Quantiser
from ltxcore.models.files.reading import Reader, in_file_order
from ltxcore.models.files.weights import Weights

_SHOWN_NAMES = 3
_LARGE_BYTES = 1 << 20


def build_empty(build: Callable[[], Any]) -> Any:
    """A model whose parameters are on the meta device and take no memory.

    Buffers are real: those that no checkpoint holds, such as rotary frequencies, are computed by the
    model's own constructor.
    """
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        return build()


def require_fit(model: nn.Module, weights: Weights, what: str, where: Path) -> None:
    """Compare a model with the weights for it, before anything is allocated.

    Raises:
        ModelError: names what is missing, what is not known, and what has another shape.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    missing = [name for name in expected if name not in weights]
    unknown = [name for name in weights if name not in expected]
    misshapen = [
        f"{name} is {list(weights[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in weights and weights[name].shape != shape
    ]
    faults = [
        f"{len(found)} weights {kind}, e.g. {', '.join(sorted(found)[:_SHOWN_NAMES])}"
        for kind, found in (
            ("are missing", missing),
            ("are not known", unknown),
            ("are misshapen", misshapen),
        )
        if found
    ]
    if faults:
        raise ModelError(
            f"the {what} in {where} does not fit its configuration: {'; '.join(faults)}. Download it again"
        )


def fill(
    model: nn.Module,
    weights: Weights,
    dtype: torch.dtype,
    device: torch.device | str,
    quantiser: Quantiser | None = None,
    quantised: frozenset[str] = frozenset(),
) -> None:
    """Give an empty model its weights, in the order in which they lie on disk.

    Args:
        model: fits the weights.
        dtype: of all floating-point values that are not quantised.
        quantiser: applied to the linears whose weights are named in `quantised`.

    Raises:
        ModelError: a file became shorter meanwhile.
    """
    target = torch.device(device)
    if quantiser is not None:
        replace_linears(model, quantiser, quantised, dtype, target)
    with Reader(target) as reader:
        for name, weight in in_file_order(weights):
            tensor = reader.read(weight, dtype)
            if quantiser is not None and name in quantised:
                quantiser.fill(model.get_submodule(name.removesuffix(".weight")), tensor)
            else:
                place(model, name, tensor)
            del tensor
            if weight.values.size_bytes >= _LARGE_BYTES:
                trim_malloc()


def replace_linears(
    model: nn.Module,
    quantiser: Quantiser,
    quantised: frozenset[str],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Put the quantiser's linears in the places of the plain ones, all still empty."""
    for name in sorted(quantised):
        parent, _, leaf = name.removesuffix(".weight").rpartition(".")
        linear = model.get_submodule(name.removesuffix(".weight"))
        if not isinstance(linear, nn.Linear):
            raise TypeError(f"{name} is the weight of a {type(linear).__name__}; only linears are quantised")
        setattr(model.get_submodule(parent), leaf, quantiser.prepare(linear, dtype, device))


def place(model: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Make `tensor`, of any shape, the parameter or buffer of that name."""
    parent, _, leaf = name.rpartition(".")
    module = model.get_submodule(parent)
    if leaf in module._parameters:
        setattr(module, leaf, nn.Parameter(tensor, requires_grad=False))
    else:
        setattr(module, leaf, tensor)


def settle_buffers(model: nn.Module, device: torch.device | str, dtype: torch.dtype | None) -> None:
    """Move the buffers that no checkpoint holds, and cast them where a dtype is given."""
    stored = set(model.state_dict())
    for name, buffer in list(model.named_buffers()):
        if name not in stored:
            cast = dtype if dtype is not None and buffer.is_floating_point() else buffer.dtype
            place(model, name, buffer.to(device, cast))
