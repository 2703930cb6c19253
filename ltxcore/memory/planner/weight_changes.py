"""What LoKr and LoHa hold beside their factors: the change of each weight, as large as the weight itself.

A LoRA's change B·A is never made: x goes through A and then through B. peft makes a LoKr's or LoHa's change
whole in each forward pass and multiplies x by it, so a linear of out x in values costs, of n = out·in:

* kept for backward, n values of the computing type, as the weight of a product is kept where its input has a
  gradient; a LoKr of low rank also keeps its second factor, n / (f_out·f_in) float32 values;
* in passing while the change is taken backwards, in float32 (gradients are not computed under autocast): of a
  LoKr the change's gradient and its products with both Kronecker factors, before they are summed up; of a
  LoHa a product of two factors and the gradient times it, the earlier one still held, with the change's
  gradient and its scaled copy. Less the change itself, which is let go before.

The formulas follow from LoKr (arXiv:2309.14859) and LoHa (arXiv:2108.06098) and from peft's own layers; a
test compares them with the peaks of real steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

from ltxcore.config.lycoris_settings import LycorisSettings
from ltxcore.config.value_types import FP32_BYTES
from ltxcore.memory.planner.sizes import BLOCKS, TransformerSizes

# Whole matrices of the change's size that are alive at once while it is taken backwards, in float32.
IN_PASSING = 3
# The same while only the forward pass is computed: a LoKr's product and its scaled copy, in float32; a LoHa's
# two products and what they make, in the computing type.
LOKR_FORWARD, LOHA_FORWARD = 2, 3
TEXT_READERS = ("attn2.to_k", "attn2.to_v")
TEXT_PROJECTION = "caption_projection"


@dataclass(frozen=True)
class WeightChanges:
    """The changes of the weights that an adapter makes whole."""

    algo: Literal["lokr", "loha"]
    factor: int | None
    """Of a LoKr whose second factor is a product; None: of another adapter."""
    targets: tuple[str, ...]
    """Suffixes of the adapted linears."""
    value_bytes: int
    """Of the computing type."""

    @classmethod
    def of(cls, settings: LycorisSettings, targets: tuple[str, ...], value_bytes: int) -> WeightChanges:
        """Those of a recipe's adapter."""
        products = settings.algo == "lokr" and not settings.full_matrix
        return cls(settings.algo, settings.factor if products else None, targets, value_bytes)

    def step_bytes(self, sizes: TransformerSizes, checkpointed: int) -> int:
        """What a training step holds at its peak, of which the first `checkpointed` blocks are recomputed."""
        kept = _kept(self, sizes)
        held = max(sizes.blocks - checkpointed, 1 if checkpointed else 0)
        # The scaled copy of a LoHa's gradient is one more of the computing type; the change itself is gone.
        copies = 1 if self.algo == "loha" else -1
        passing = _largest(self, sizes) * (IN_PASSING * FP32_BYTES + copies * self.value_bytes)
        return held * kept.block + kept.outside + passing

    def rendering_bytes(self, sizes: TransformerSizes) -> int:
        """What a forward pass without gradients holds at its peak: one change after another."""
        copies = LOHA_FORWARD * self.value_bytes if self.algo == "loha" else LOKR_FORWARD * FP32_BYTES
        return _largest(self, sizes) * copies


@dataclass(frozen=True)
class _Kept:
    block: int
    outside: int


@cache
def _kept(changes: WeightChanges, sizes: TransformerSizes) -> _Kept:
    """Bytes that are kept for backward, of one block and of all that is outside of the blocks."""
    first = f"{BLOCKS}0."
    of_names = {name: _kept_of(changes, name, *sizes.shapes[name]) for name in sizes.linears(changes.targets)}
    return _Kept(
        block=sum(size for name, size in of_names.items() if name.startswith(first)),
        outside=sum(size for name, size in of_names.items() if not name.startswith(BLOCKS)),
    )


def _kept_of(changes: WeightChanges, name: str, rows: int, columns: int) -> int:
    found = 0
    from_text = f".{name.removesuffix('.weight')}".endswith(tuple(f".{reader}" for reader in TEXT_READERS))
    # What reads the captions gets no gradient back, unless something before it is trained, too.
    if not from_text or any(TEXT_PROJECTION in target for target in changes.targets):
        found += rows * columns * changes.value_bytes
    if changes.factor is not None:
        factors = smaller_factor(rows, changes.factor) * smaller_factor(columns, changes.factor)
        found += rows * columns // factors * FP32_BYTES
    return found


@cache
def _largest(changes: WeightChanges, sizes: TransformerSizes) -> int:
    return max((math.prod(sizes.shapes[name]) for name in sizes.linears(changes.targets)), default=0)


@cache
def smaller_factor(size: int, factor: int) -> int:
    """The first of the two numbers that a LoKr of this `factor` splits a size into.

    The factor itself where it divides the size, else the largest divisor up to it; -1: the largest up to the
    square root.
    """
    if factor > 0 and size % factor == 0:
        return factor
    limit = math.isqrt(size) if factor < 0 else min(factor, math.isqrt(size))
    return next(divisor for divisor in range(limit, 0, -1) if size % divisor == 0)
