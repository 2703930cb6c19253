"""Giving the holes of the C heap back while large tensors come and go between others that stay."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

_malloc_trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)


def release_holes() -> None:
    """Return freed memory to the system, wherever in the heap it lies.

    glibc keeps what is freed below a block that stays. A load that did not give it back peaked 0.1 GiB
    higher with every transformer block. Other C libraries have no such call and are left alone.
    """
    if _malloc_trim is not None:
        _malloc_trim(0)
