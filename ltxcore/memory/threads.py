"""The number of threads with which a process computes on a CPU; it does not depend on the current load.

Sums over several threads are rounded in another order, so the number belongs to what a stage does: it
follows from the model's size and the recipe, and is kept with the result.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ltxcore.variables import variables_set

VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""What the numeric libraries read when they are loaded."""
SMALL_PARAMETERS: Final = 50_000_000
"""Models below it gain nothing from a second thread, and lose much beside a busy process."""


def count_cores() -> int:
    """Cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, cores or 1)


def threads_for(parameters: int, cores: int, processes: int = 1) -> int:
    """Threads of each process of a stage: one for a small model, else half of the cores, shared evenly.

    Args:
        parameters: of all models that the stage loads.
        cores: of the machine.
        processes: that compute at once.
    """
    return 1 if parameters < SMALL_PARAMETERS else max(1, cores // (2 * processes))


@contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """Compute with this number of threads while the block lasts, whatever the environment says.

    Libraries that are loaded in the block, and processes that are started there, take the number, too.
    """
    torch_before = threads_in_use()
    with variables_set(dict.fromkeys(VARIABLES, str(threads))):
        set_threads(threads)
        try:
            yield
        finally:
            if torch_before is not None:
                set_threads(torch_before)


def set_threads(threads: int) -> None:
    """Set the number of torch's threads, if torch is loaded."""
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(threads)


def threads_in_use() -> int | None:
    """Threads that torch computes with; None where it is not loaded."""
    if "torch" not in sys.modules:
        return None
    import torch

    return int(torch.get_num_threads())
