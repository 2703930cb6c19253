"""How far two ways of computing the same numbers may differ, from the arithmetic and never from one machine.

Rounding errors of a sum of n terms grow like sqrt(n) * eps times its size (Higham and Mary, "A new approach
to probabilistic rounding error analysis", 2019), whatever the order of the sum, the vector width of the
processor and the number of threads. A model is a chain of sums: the terms of all of them together bound it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

CONFIDENCE = 8.0
"""The factor before sqrt(n): the bound then fails with a probability that is no concern."""
TINY_TERMS = 7_300
"""`terms_of` the tiny transformer and its connectors."""


def terms_of(*modules: torch.nn.Module) -> int:
    """The terms of the sums that one value goes through in models: the fan-in of each weight, added up."""
    return sum(p[0].numel() for module in modules for p in module.parameters() if p.ndim > 1)


def bound(terms: int, scale: float, dtype: torch.dtype = torch.float32) -> float:
    """The largest difference that rounding explains, for values of the size `scale`."""
    return CONFIDENCE * math.sqrt(terms) * torch.finfo(dtype).eps * scale


def assert_alike(found: torch.Tensor, expected: torch.Tensor, terms: int) -> None:
    """Two results of one formula differ by rounding alone; they are judged at the size of the largest value.

    Args:
        terms: of the longest chain of sums that leads to a value; `terms_of` gives a model's.
    """
    assert found.shape == expected.shape
    dtype = max(found.dtype, expected.dtype, key=lambda kind: torch.finfo(kind).eps)
    found, expected = found.detach(), expected.detach()
    scale = max(float(found.abs().max()), float(expected.abs().max()))
    allowed, worst = bound(terms, scale, dtype), float((found.double() - expected.double()).abs().max())
    assert worst <= allowed, f"differ by {worst:.3g}; rounding of {terms} terms explains {allowed:.3g}"


def assert_adds_up(total: float, parts: Mapping[str, tuple[float, float]], terms: int = 16) -> None:
    """A loss is the sum of its parts, each the value times the weight, within the rounding of float32.

    Args:
        total: the loss.
        parts: name -> weight and value.
        terms: of the sums in a part that are taken in another order than in the total.
    """
    assert parts, "a loss has parts"
    weighted = {name: weight * value for name, (weight, value) in parts.items()}
    allowed = bound(terms, sum(map(abs, weighted.values())))
    assert abs(total - math.fsum(weighted.values())) <= allowed, (total, weighted)
