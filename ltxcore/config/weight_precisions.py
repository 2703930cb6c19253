"""The precisions that a recipe may name, and the memory that each takes; imports no library."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Library = Literal["quanto", "torchao", "bitsandbytes"]
NO_CHANGE = "no_change"
GROUP = 128
"""Values of a row that share scale and shift in four bits and less."""


@dataclass(frozen=True)
class Precision:
    """One precision for a linear's weight."""

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
# The gates of an attention's heads are small and keep their precision.
KEPT_LINEARS = ("to_gate_logits.weight",)


def stays_exact(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a weight inside a block keeps its type under every precision."""
    return not name.endswith(".weight") or len(shape) != 2 or name.endswith(KEPT_LINEARS)
