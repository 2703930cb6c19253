"""Which weights of a component a precision applies to, what that takes, and the library that it needs.

Nothing here imports torch or a quantising library: plans are made before any stage has started.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Mapping

from ltxcore.config.weight_precisions import NO_CHANGE, PRECISIONS, Library, Precision, stays_exact
from ltxcore.models.errors import ModelError

_MODULES: Mapping[Library, str] = {
    "quanto": "optimum.quanto",
    "torchao": "torchao",
    "bitsandbytes": "bitsandbytes",
}


def require_library(precision: Precision) -> None:
    """Refuse a precision whose library is not installed.

    Raises:
        ModelError: says how to install it, and what works without.
    """
    package = _MODULES[precision.library].split(".")[0]
    if importlib.util.find_spec(package) is None:
        raise ModelError(
            f"{precision.name} needs the package {precision.library}, which is not installed; run "
            f"`pip install 'ltx2-flows[{precision.library}]'`, or use int8-quanto"
        )


# Where the linears are that hold nearly all of a component. What is outside (embeddings of time and text,
# the projections in and out) is small and keeps its precision.
_BLOCKS = {"transformer": "transformer_blocks.", "text_encoder": "layers."}


def quantised_names(component: str, shapes: Mapping[str, tuple[int, ...]]) -> frozenset[str]:
    """The weights of a component that a precision applies to."""
    prefix = _BLOCKS.get(component)
    if prefix is None:
        return frozenset()
    return frozenset(
        name for name, shape in shapes.items() if name.startswith(prefix) and not stays_exact(name, shape)
    )


def resident_bytes(
    component: str, shapes: Mapping[str, tuple[int, ...]], value_bytes: int, precision: str = NO_CHANGE
) -> int:
    """Size of a component once it is loaded."""
    if precision == NO_CHANGE:
        return _values(shapes.values()) * value_bytes
    quantised = quantised_names(component, shapes)
    rest = _values(shape for name, shape in shapes.items() if name not in quantised) * value_bytes
    chosen = PRECISIONS[precision]
    return rest + sum(chosen.weight_bytes(shapes[name], value_bytes) for name in quantised)


def _values(shapes: Iterable[tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes)
