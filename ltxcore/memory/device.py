"""Which device a stage computes on, and its cap."""

from __future__ import annotations

from ltxcore.memory.plan import GIB


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
    import torch

    free, _ = torch.cuda.mem_get_info()
    return free if vram_gib is None else min(int(vram_gib * GIB), free)


def device_name() -> str:
    """What the first device calls itself."""
    import torch

    return str(torch.cuda.get_device_name(0))
