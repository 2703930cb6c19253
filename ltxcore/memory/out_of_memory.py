"""Recognises out-of-memory errors, and frees memory after one."""

from __future__ import annotations

import gc
import sys

# What torch's CPU allocator, cuBLAS, cuDNN and oneDNN say; CUDA's own allocator has an exception class.
_WORDS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "alloc_failed",
    "could not create a memory object",
)
# What the host's allocators say of these; CUDA's and its libraries' errors are the device's.
_HOST_WORDS = (
    "can't allocate memory",
    "cannot allocate memory",
    "could not create a memory object",
    "unable to allocate",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one of its causes, is an out-of-memory error."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError) or type(seen).__name__ == "OutOfMemoryError":
            return True
        if isinstance(seen, RuntimeError | OSError) and any(w in str(seen).lower() for w in _WORDS):
            return True
        seen = seen.__cause__
    return False


def is_on_host(error: BaseException) -> bool:
    """Whether host memory ran out, for an error for which `is_out_of_memory` is true."""
    seen: BaseException | None = error
    while seen is not None:
        if type(seen) is MemoryError or any(word in str(seen).lower() for word in _HOST_WORDS):
            return True
        seen = seen.__cause__
    return False


def release_memory() -> None:
    """Free memory that is no longer referred to. Asks torch only where something else has imported it."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
