"""The watch on host memory: what it counts, how it ends a block, and what it refuses."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ltxcore.memory.out_of_memory import is_out_of_memory, release_memory
from ltxcore.memory.plan import GIB, OverBudget, check_host
from ltxcore.memory.watchdog import SIGNAL, HostMemoryExceeded, Use, Watchdog, host_use_bytes

MIB = 1 << 20


def _hold(mib: int) -> np.ndarray:
    return np.ones(mib * MIB, dtype=np.uint8)


def test_outgrowing_the_limit_ends_the_block() -> None:
    before = signal.getsignal(SIGNAL)
    messages: list[Use] = []
    limit = host_use_bytes() + 100 * MIB
    held: list[np.ndarray] = []

    def outgrow() -> None:
        with Watchdog(limit, on_breach=messages.append, poll_s=0.02):
            while len(held) < 500:
                held.append(_hold(10))
                time.sleep(0.02)

    with pytest.raises(HostMemoryExceeded, match=r"hold \d\.\d\d GiB of host memory, of \d\.\d\d allowed"):
        outgrow()
    # It looks every 20 ms, and later where the machine is busy; far from the end in any case.
    assert 9 < len(held) < 200
    assert [use.limit_bytes for use in messages] == [limit]
    assert messages[0].used_bytes > limit
    assert signal.getsignal(SIGNAL) == before


def test_a_library_that_swallows_the_error_gets_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ltxcore.memory.watchdog.REPEAT_S", 0.05)
    swallowed, held = [], []

    def deaf() -> None:
        # Far above the limit, since what the tests before have left may be let go meanwhile.
        with Watchdog(host_use_bytes() + 20 * MIB, poll_s=0.02):
            for _ in range(2):
                try:
                    held.append(_hold(600))
                    time.sleep(60)
                except HostMemoryExceeded as error:
                    swallowed.append(error)
            time.sleep(60)

    with pytest.raises(HostMemoryExceeded):
        deaf()
    assert len(swallowed) == 2


def test_within_the_limit_nothing_happens_and_the_peak_is_known() -> None:
    peaks: list[Use] = []
    with Watchdog(host_use_bytes() + GIB, on_peak=peaks.append, poll_s=0.01) as watch:
        held = _hold(100)
        while watch.peak_bytes < held.nbytes:
            time.sleep(0.02)
    assert watch.peak_bytes >= held.nbytes
    assert peaks[-1].used_bytes == watch.peak_bytes


def test_children_count_and_mapped_files_do_not(tmp_path: Path) -> None:
    before = host_use_bytes()
    file = tmp_path / "weights"
    file.write_bytes(bytes(80 * MIB))
    mapped = np.memmap(file, mode="r")
    assert int(mapped.sum()) == 0
    assert host_use_bytes() - before < 40 * MIB

    code = "import sys; held = bytearray(b'1') * (100 << 20); print('held', flush=True); sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline().strip() == b"held"
    assert host_use_bytes() - before > 90 * MIB
    child.communicate()


def test_a_block_that_does_not_end_is_killed_with_the_breach_on_record(tmp_path: Path) -> None:
    record = tmp_path / "breach"
    code = f"""
import sys, time
from pathlib import Path
from ltxcore.memory.watchdog import HostMemoryExceeded, Watchdog, host_use_bytes
with Watchdog(host_use_bytes() + (20 << 20), on_breach=lambda use: Path({str(record)!r}).write_text(str(use)),
              poll_s=0.02, grace_s=0.2):
    held = bytearray(b'1') * (60 << 20)
    while True:
        try:
            time.sleep(1)
        except HostMemoryExceeded:
            pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert "GiB of host memory" in record.read_text()


def test_a_limit_below_what_the_process_holds_is_refused() -> None:
    with (
        pytest.raises(OverBudget, match=r"before it has loaded anything, and memory\.ram_gib allows 0\.00"),
        Watchdog(MIB),
    ):
        pass
    with pytest.raises(OverBudget, match=r"encode-latents needs 0\.9 GiB .* allows 0\.5"):
        check_host("encode-latents", GIB // 2)
    check_host("encode-latents", GIB)


def test_errors_for_want_of_memory_are_known_from_others() -> None:
    import torch

    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"))
    assert is_out_of_memory(RuntimeError("CUDNN_STATUS_ALLOC_FAILED"))
    wrapped = RuntimeError("rendering failed")
    wrapped.__cause__ = MemoryError()
    assert is_out_of_memory(wrapped)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory, says a caption"))
    release_memory()


def test_torchs_own_allocator_is_recognised() -> None:
    """A real refusal, by a limit of the operating system on the address space."""
    code = """
import resource, torch
from ltxcore.memory.out_of_memory import is_out_of_memory
resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))
try:
    torch.ones(1 << 30)
except RuntimeError as error:
    assert is_out_of_memory(error), error
    print('known')
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "known", done.stderr
