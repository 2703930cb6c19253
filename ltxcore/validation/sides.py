"""What there is of each LoRA that is shown beside the base: two sides at most, under fixed names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

T = TypeVar("T")
Shown = TypeVar("Shown")

Kind = Literal["lora", "ema"]
"""Part of the names of a side's renderings."""


@dataclass(frozen=True)
class Sides(Generic[T]):
    """One thing for each side, from left to right; None where a side is not shown."""

    lora: T | None = None
    """Of the LoRA, or of its last weights where the average stands beside them."""
    ema: T | None = None
    """Of the moving average of the weights."""

    def items(self) -> Iterator[tuple[Kind, T]]:
        """What is shown, each with its name."""
        if self.lora is not None:
            yield "lora", self.lora
        if self.ema is not None:
            yield "ema", self.ema

    def __iter__(self) -> Iterator[T]:
        return (value for _, value in self.items())

    def __len__(self) -> int:
        return sum(1 for _ in self.items())

    def map(self, change: Callable[[Kind, T], Shown]) -> Sides[Shown]:
        """What `change` makes of each side that is shown, from its name and its value."""
        return Sides(**{kind: change(kind, value) for kind, value in self.items()})
