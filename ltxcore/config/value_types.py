"""The types that models compute in, by the names that recipes have for them."""

from __future__ import annotations

from typing import Final

BF16_BYTES: Final = 2
FP32_BYTES: Final = 4
_BYTES: Final = {"bf16": BF16_BYTES, "fp32": FP32_BYTES, "no": FP32_BYTES}
"""`no` is `mixed_precision`'s word for float32."""


def type_bytes(name: str) -> int:
    """Bytes of a number of the type `bf16`, `fp32` or `no`."""
    return _BYTES[name]
