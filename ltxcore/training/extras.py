"""Optimizers that come with packages of their own. No torch in here: plans ask before a stage starts."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Final

EXTRAS: Final[Mapping[str, tuple[str, str]]] = {
    "adamw8bit": ("bitsandbytes", "bitsandbytes"),
    "prodigy": ("prodigyopt", "prodigy"),
}
"""Optimizer -> the package it is from, and the extra that brings it."""


class OptimizerMissing(ValueError):
    """An optimizer whose package is not installed."""


def require_optimizer(name: str) -> None:
    """Check that the package of an optimizer is installed.

    Raises:
        OptimizerMissing: says how to install it, and what works without.
    """
    package, extra = EXTRAS.get(name, ("", ""))
    if package and importlib.util.find_spec(package) is None:
        raise OptimizerMissing(
            f"training.optimizer: {name} needs the package {package}, which is not installed; run "
            f"`pip install 'ltx2-flows[{extra}]'`, or use adamw or adamw_bf16"
        )
