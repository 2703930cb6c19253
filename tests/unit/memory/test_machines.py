"""Which machine an answer is about: the device of this one, as its driver tells, or a card that is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltxcore.jobs.estimate import machines
from ltxcore.jobs.estimate.machines import UnknownCard, named_card, this_machine
from ltxcore.memory.device import device_budget_bytes, likely_device
from ltxcore.memory.plan import GIB, machine_bytes
from ltxcore.memory.planned_machine import planned_for


def test_the_driver_tells_of_a_device_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA GeForce RTX 4090, 24564'\necho 'Another, 8000'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(machines, "device_here", lambda: "cuda")
    found = this_machine()
    assert (found.name, found.is_here) == ("NVIDIA GeForce RTX 4090", True)
    assert found.planned is not None
    assert 23.4 < found.planned.device_bytes / GIB < 23.6
    program.write_text("#!/bin/sh\nexit 9\n")
    assert this_machine().planned is None, "a driver that does not answer is no card"
    monkeypatch.setattr(machines, "device_here", lambda: "cpu")
    assert "no CUDA device" in this_machine().name


def test_inside_a_planned_machine_its_memory_is_what_there_is() -> None:
    here = machine_bytes()
    card = named_card("RTX 4090", ram_gib=32)
    with planned_for(card.planned):
        assert likely_device() == "cuda"
        assert machine_bytes() == 32 * GIB
        assert device_budget_bytes("cuda", None) == int(23.5 * GIB)
        assert device_budget_bytes("cuda", 10) == 10 * GIB
    assert machine_bytes() == here
    with pytest.raises(UnknownCard, match="did you mean `4090`"):
        named_card("4091")
