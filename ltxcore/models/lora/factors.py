"""The factors of LoRA layers, read one layer at a time, and their sums and approximations.

The change of a weight is scale · B·A, with A [r, in] and B [out, r]. A sum of changes is exactly the product
of B's side by side and A's one above the other; its best approximation of a smaller rank is the truncated
singular value decomposition (Eckart, Young), whose relative error is the root of the share of the squared
singular values that are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from ltxcore.models.lora.header import AdapterError, LoraHeader
from ltxcore.models.lora.names import A, B


@dataclass(frozen=True)
class Factors:
    """A layer's change, `b @ a`, with its scale in `b`; float32."""

    a: torch.Tensor
    """[r, in]"""
    b: torch.Tensor
    """[out, r]"""


@dataclass
class Loss:
    """What a smaller rank leaves out."""

    left_out: float = 0.0
    """Sum of the squares of the singular values that are left out."""
    whole: float = 0.0
    """Sum of the squares of all."""
    by_layer: dict[str, float] = field(default_factory=dict)
    """Layer -> relative error."""

    @property
    def relative(self) -> float:
        """Of all layers together: the norm of what is left out, as a share of the norm of the change."""
        return (self.left_out / self.whole) ** 0.5 if self.whole else 0.0

    @property
    def worst(self) -> tuple[str, float]:
        """The layer with the largest relative error, and that."""
        return max(self.by_layer.items(), key=lambda item: item[1], default=("", 0.0))

    def add(self, layer: str, left_out: float, whole: float) -> None:
        """Add one layer: the squared norms of what is left out and of the whole change."""
        self.left_out += left_out
        self.whole += whole
        self.by_layer[layer] = (left_out / whole) ** 0.5 if whole else 0.0


class LoraReader:
    """A file whose layers are read one at a time."""

    def __init__(self, header: LoraHeader, file: Any) -> None:
        self.header, self._file = header, file
        self._stored = {(name.module, name.part): name.stored for name in header.names}

    def tensor(self, layer: str, part: str) -> torch.Tensor:
        """A tensor as it is stored: A is [rank, in], B is [out, rank]."""
        found: torch.Tensor = self._file.get_tensor(self._stored[layer, part])
        return found

    def factors(self, layer: str) -> Factors:
        """A layer's factors, its scale in B."""
        scale = self.header.layers[layer].scale
        return Factors(self.tensor(layer, A).float(), self.tensor(layer, B).float() * scale)


@contextmanager
def open_lora(header: LoraHeader) -> Iterator[LoraReader]:
    """Open a file whose header was read.

    Raises:
        AdapterError: it is no safetensors file any more.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(header.path, framework="pt") as file:
            yield LoraReader(header, file)
    except SafetensorError as error:
        raise AdapterError(f"{header.path} cannot be read: {error}; download it again") from error


def require_plain(header: LoraHeader, what: str) -> None:
    """Refuse kinds whose change is not a product of two factors.

    Raises:
        AdapterError: it is a DoRA, LoKr or LoHa.
    """
    if header.kind != "lora":
        kinds = {"dora": "DoRA", "lokr": "LoKr", "loha": "LoHa"}
        raise AdapterError(
            f"{header.path} is a {kinds[header.kind]}, whose change is not a product of two factors, and "
            f"cannot be {what}; give a plain LoRA"
        )


def total(parts: Sequence[tuple[float, Factors]]) -> Factors:
    """The weighted sum of changes, exactly; its rank is the sum of theirs."""
    return Factors(
        torch.cat([factors.a for _, factors in parts]),
        torch.cat([weight * factors.b for weight, factors in parts], dim=1),
    )


def shrunk(factors: Factors, rank: int, layer: str, loss: Loss) -> Factors:
    """The best approximation of a change by a rank; exact, up to rounding, where it has no larger one.

    By QR of both factors, so that the decomposition is of an r x r matrix and not of the weight's size.

    Args:
        factors: of any rank r.
        rank: of what is returned, if the factors have as many; both factors get the root of each singular
            value.
        layer: for the account.
        loss: the account of what was left out.
    """
    q_out, r_out = torch.linalg.qr(factors.b)
    q_in, r_in = torch.linalg.qr(factors.a.T)
    u, values, v = torch.linalg.svd(r_out.double() @ r_in.double().T)
    squares = values.square()
    loss.add(layer, float(squares[rank:].sum()), float(squares.sum()))
    root = values[:rank].sqrt()
    b = q_out.double() @ (u[:, :rank] * root)
    a = (root[:, None] * v[:rank]) @ q_in.double().T
    return Factors(a.float().contiguous(), b.float().contiguous())


def padded(factors: Factors, start: torch.Tensor) -> Factors:
    """The same change by a larger rank: A goes on with the rows of a fresh one, B with zeros.

    Args:
        factors: of a rank that is not larger than that of `start`.
        start: A of a fresh adapter, [r, in].
    """
    rank, missing = factors.a.shape[0], start.shape[0] - factors.a.shape[0]
    zeros = torch.zeros(factors.b.shape[0], missing)
    return Factors(torch.cat([factors.a, start[rank:]]), torch.cat([factors.b, zeros], dim=1))
