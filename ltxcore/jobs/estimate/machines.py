"""The machines that an answer may be about: the one here, or a card that one might buy or rent."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from typing import Final

from ltxcore.config.errors import nearest
from ltxcore.memory.device import device_here
from ltxcore.memory.plan import GIB, machine_bytes
from ltxcore.memory.planned_machine import PlannedMachine
from ltxcore.memory.planner.cards import CARDS

ASK_LIMIT_S: Final = 10.0
USABLE: Final = 0.98
"""Of a device's memory; the driver keeps the rest (a 4090 tells of 23.99 GiB and gives 23.5)."""


class UnknownCard(LookupError):
    """No card of that name is known."""


@dataclass(frozen=True)
class AnsweredMachine:
    """A machine with its name for people."""

    name: str
    planned: PlannedMachine | None
    """None: this one's processor."""
    is_here: bool


def named_card(name: str, ram_gib: float | None = None) -> AnsweredMachine:
    """The machine around a card of the table.

    Args:
        ram_gib: of host memory; None: as much as is usual beside that card.

    Raises:
        UnknownCard: with the nearest name.
    """
    key = name.lower().replace(" ", "").replace("-", "").removeprefix("rtx").removeprefix("rx")
    if key not in CARDS:
        raise UnknownCard(f"the card {name!r} is not known; {nearest(key, CARDS)}")
    card = CARDS[key]
    ram = card.ram_gib if ram_gib is None else ram_gib
    planned = PlannedMachine(card.name, int(card.vram_gib * GIB), int(ram * GIB))
    return AnsweredMachine(f"{card.name} with {ram:.0f} GiB of host memory", planned, is_here=False)


def this_machine() -> AnsweredMachine:
    """The one that this process is on; its driver tells of its device, so that torch is not imported."""
    host = machine_bytes()
    if device_here() == "cuda" and (found := _first_device()) is not None:
        name, device_bytes = found
        return AnsweredMachine(name, PlannedMachine(name, device_bytes, host), is_here=True)
    what = "no CUDA device" if device_here() == "cpu" else "a device that its driver does not describe"
    return AnsweredMachine(f"this machine ({what}, {host / GIB:.0f} GiB of memory)", None, is_here=True)


def _first_device() -> tuple[str, int] | None:
    """Name and bytes of the first NVIDIA device; None where there is no nvidia-smi, as with AMD's."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=ASK_LIMIT_S)
    first = done.stdout.splitlines()[0] if done.returncode == 0 and done.stdout else ""
    name, _, mebibytes = first.rpartition(",")
    if not mebibytes.strip().isdigit():
        return None
    return name.strip(), int((int(mebibytes) << 20) * USABLE)
