"""The precisions that weights can be held in: what each takes of memory, and which library it needs.

Nothing here imports torch or a quantising library: plans are made before any stage has started.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from ltxcore.models.errors import ModelError

Library = Literal["quanto", "torchao", "bitsandbytes"]
NO_CHANGE = "no_change"
GROUP = 128
"""Values of a row that share scale and shift in four bits and less."""
_MODULES: Mapping[Library, str] = {
    "quanto": "optimum.quanto",
    "torchao": "torchao",
    "bitsandbytes": "bitsandbytes",
}


@dataclass(frozen=True)
class Precision:
    """One way of holding a linear's weight."""

    name: str
    library: Library
    bits: int
    kind: str
    """The library's own name of it."""
    group: int | None = None
    """Values that share a scale; None for one scale a row."""

    def weight_bytes(self, shape: tuple[int, ...], value_bytes: int) -> int:
        """Size of a quantised weight `[rows, columns]`, its scales being of `value_bytes`."""
        rows, columns = shape
        scales = rows if self.group is None else 2 * rows * math.ceil(columns / self.group)
        return math.ceil(rows * columns * self.bits / 8) + scales * value_bytes

    def require_library(self) -> None:
        """Refuse a precision whose library is not installed.

        Raises:
            ModelError: says how to install it, and what works without.
        """
        package = _MODULES[self.library].split(".")[0]
        if importlib.util.find_spec(package) is None:
            raise ModelError(
                f"{self.name} needs the package {self.library}, which is not installed; run "
                f"`pip install 'ltx2-flows[{self.library}]'`, or use int8-quanto"
            )


PRECISIONS: Mapping[str, Precision] = MappingProxyType(
    {
        precision.name: precision
        for precision in (
            Precision("int8-quanto", "quanto", 8, "qint8"),
            Precision("int4-quanto", "quanto", 4, "qint4", GROUP),
            Precision("int2-quanto", "quanto", 2, "qint2", GROUP),
            Precision("fp8-quanto", "quanto", 8, "qfloat8_e4m3fn"),
            Precision("int8-torchao", "torchao", 8, "Int8WeightOnlyConfig"),
            Precision("fp8-torchao", "torchao", 8, "Float8WeightOnlyConfig"),
            Precision("nf4-bnb", "bitsandbytes", 4, "nf4", 64),
        )
    }
)

# Where the linears are that hold nearly all of a component. What is outside (embeddings of time and text,
# the projections in and out) is small and keeps its precision, and so do the gates of an attention's heads.
_BLOCKS = {"transformer": "transformer_blocks.", "text_encoder": "layers."}
_KEPT = ("to_gate_logits.weight",)


def quantised_names(component: str, shapes: Mapping[str, tuple[int, ...]]) -> frozenset[str]:
    """The weights of a component that a precision applies to."""
    prefix = _BLOCKS.get(component)
    if prefix is None:
        return frozenset()
    return frozenset(
        name
        for name, shape in shapes.items()
        if name.startswith(prefix)
        and name.endswith(".weight")
        and len(shape) == 2
        and not name.endswith(_KEPT)
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
