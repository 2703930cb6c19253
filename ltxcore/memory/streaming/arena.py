"""Host memory for streamed weights: exactly sized, page-locked with CUDA, one piece a block."""

from __future__ import annotations

import mmap

import torch


class PinningFailed(RuntimeError):
    """The system refused to lock pages for streamed weights."""


class HostArena:
    """A buffer of host memory of exactly `size_bytes`, rounded up to whole pages by the system alone.

    PyTorch's own allocator of pinned memory rounds up to powers of two: a block of 0.74 GiB would take 1 GiB.
    This memory is mapped for itself and registered with CUDA, and goes back to the system when released.

    Raises:
        PinningFailed: CUDA could not register it.
    """

    def __init__(self, size_bytes: int, *, pinned: bool) -> None:
        if size_bytes <= 0:
            raise ValueError(f"an arena of {size_bytes} bytes holds nothing")
        self._mapping = mmap.mmap(-1, size_bytes)
        self.bytes = torch.frombuffer(self._mapping, dtype=torch.uint8)
        """The whole buffer, `[size_bytes]` uint8."""
        self._registered = False
        if pinned:
            self._register()

    def release(self) -> None:
        """Unlock the pages. The memory itself lives as long as a tensor refers to it."""
        if self._registered:
            _require_success(torch.cuda.cudart().cudaHostUnregister(self.bytes.data_ptr()), "unlock", self)
            self._registered = False

    def _register(self) -> None:
        portable = 1
        code = torch.cuda.cudart().cudaHostRegister(self.bytes.data_ptr(), self.bytes.numel(), portable)
        _require_success(code, "lock", self)
        self._registered = True


def _require_success(code: object, action: str, arena: HostArena) -> None:
    if int(code) != 0:  # type: ignore[call-overload]
        raise PinningFailed(
            f"CUDA could not {action} {arena.bytes.numel()} bytes of host memory ({code}); allow more locked "
            "memory (`ulimit -l unlimited`, or `--ulimit memlock=-1` for a container), keep more blocks "
            "resident, or choose memory.strategy: resident"
        )
