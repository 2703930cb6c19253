"""Returns free heap pages to the system (malloc_trim) while large tensors come and go."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

_malloc_trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)


def trim_malloc() -> None:
    """Return freed memory to the system, wherever in the heap it lies.

    glibc keeps what is freed below a block that stays. A load that did not give it back peaked 0.1 GiB
    higher with every transformer block. Other C libraries have no such call and are left alone.
    """
    if _malloc_trim is not None:
        _malloc_trim(0)
