"""Which device a stage computes on, and its cap."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Literal

from ltxcore.memory.plan import GIB
from ltxcore.memory.planned_machine import planned_machine

# The driver's device files: NVIDIA's, AMD's, and that of Windows' Linux.
_DRIVERS = ("/dev/nvidia0", "/dev/kfd", "/dev/dxg")


def likely_device() -> Literal["cpu", "cuda"]:
    """What `pick_device` will say in a process that may use the GPU, without importing torch.

    The parent of a run and the workers of the pool `cpu` hide the GPU from themselves, so the environment
    does not count.
    """
    return device_here() if planned_machine() is None else "cuda"


@cache
def device_here() -> Literal["cpu", "cuda"]:
    """The device of this machine, by its driver and the build of torch."""
    try:
        build = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return "cpu"
    driver = any(Path(file).exists() for file in _DRIVERS)
    return "cuda" if driver and not build.endswith("+cpu") else "cpu"


def pick_device() -> str:
    """`cuda` where there is one, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def cap_device_memory(device: str, vram_gib: float | None) -> None:
    """Make the allocator refuse to go past the budget, so that a wrong plan fails instead of spilling."""
    if device != "cuda" or vram_gib is None:
        return
    import torch

    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, vram_gib * GIB / total))


def device_budget_bytes(device: str, vram_gib: float | None) -> int | None:
    """What the recipe allows on the device, or what is free there; None on a machine without one."""
    if device != "cuda":
        return None
    planned = planned_machine()
    if planned is not None:
        free = planned.device_bytes
        return free if vram_gib is None else min(int(vram_gib * GIB), free)
    import torch

    free, _ = torch.cuda.mem_get_info()
    return free if vram_gib is None else min(int(vram_gib * GIB), free)


def device_name() -> str:
    """What the first device calls itself."""
    planned = planned_machine()
    if planned is not None:
        return planned.device_name
    import torch

    return str(torch.cuda.get_device_name(0))
