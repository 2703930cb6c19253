"""What a process really used: peaks of host and device memory."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass

# ru_maxrss is in KiB on Linux and in bytes on macOS.
_RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Peaks:
    """Highest use so far, in bytes; `vram_bytes` is 0 where no device was used."""

    rss_bytes: int
    vram_bytes: int


def measure_peaks() -> Peaks:
    """Peaks of this process. Asks torch only where something else has imported it already."""
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT_BYTES
    torch = sys.modules.get("torch")
    cuda = torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()
    return Peaks(rss, torch.cuda.max_memory_reserved() if torch is not None and cuda else 0)
