"""Graphics cards for planning without having one: vendors' figures, and the share of them that is reached."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """A machine as the planner sees it."""

    name: str
    vram_gib: float
    """What a process can have of it."""
    bus_gb_s: float
    """Page-locked host memory to the card, as measured on such slots, not the link's nominal rate."""
    tflops: float
    """Dense bf16 with float32 accumulation."""
    reached: float
    """The share of that rate that the blocks of a large transformer reach."""
    ram_gib: float
    """Host memory of the usual machine around it."""

    @property
    def rate(self) -> float:
        """Floating-point operations a second."""
        return self.tflops * 1e12 * self.reached


CARDS: dict[str, Card] = {
    key: Card(*values)
    for key, values in {
        "3090": ("RTX 3090", 23.5, 24, 71, 0.60, 64),
        "4090": ("RTX 4090", 23.5, 25, 165, 0.55, 64),
        "5090": ("RTX 5090", 31.4, 50, 209, 0.55, 64),
        "7900xtx": ("RX 7900 XTX", 23.9, 24, 123, 0.35, 64),
        "a100": ("A100 80 GB", 79.2, 24, 312, 0.50, 256),
        "h100": ("H100 80 GB", 79.2, 50, 989, 0.38, 256),
        "h200": ("H200 141 GB", 139.8, 50, 989, 0.38, 256),
    }.items()
}


def card_like(name: str, vram_gib: float, ram_gib: float) -> Card:
    """The card of a device's own name, with the memory that it has; an unknown one gets a 4090's rates."""
    plain = name.lower().replace(" ", "")
    known = next((card for key, card in CARDS.items() if key in plain), CARDS["4090"])
    return Card(name, vram_gib, known.bus_gb_s, known.tflops, known.reached, ram_gib)
