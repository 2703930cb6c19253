"""Checkpoints: whole or absent, verified, pruned but never the newest."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ltxcore.training.checkpoints import (
    BrokenCheckpoint,
    Checkpoint,
    latest,
    list_checkpoints,
    read_checkpoint,
    write_checkpoint,
)
from ltxcore.training.optimizer import OptimizerState

ROOT = Path(__file__).parents[3]


def checkpoint(step: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    return Checkpoint(
        step=step,
        run_fingerprint="f",
        lora={"a.lora_A.weight": torch.randn(2, 3, generator=generator)},
        optimizer=OptimizerState(
            {
                "a.lora_A.weight/exp_avg": torch.randn(2, 3, generator=generator),
                "a.lora_A.weight/step": torch.tensor(float(step)),
            },
            {"a.lora_A.weight/count": step, "group/0/d": 0.1 / 7},
        ),
        schedule={"last_epoch": step, "last_lr": [0.1 / 3]},
        ema={"a.lora_A.weight": torch.randn(2, 3, generator=generator)},
        request={"training": {"learning_rate": 0.1}, "clips": ["ä"]},
    )


def steps(directory: Path) -> list[int]:
    return [int(path.name.removeprefix("checkpoint-")) for path in list_checkpoints(directory)]


def test_what_is_written_is_read_to_the_bit(tmp_path: Path) -> None:
    written = checkpoint(7)
    read = read_checkpoint(write_checkpoint(tmp_path, written, limit=3))
    assert (read.step, read.run_fingerprint, read.schedule) == (7, "f", written.schedule)
    assert (read.request, read.optimizer.numbers) == (written.request, written.optimizer.numbers)
    assert read.ema is not None
    assert written.ema is not None
    tensors = (read.optimizer.tensors, written.optimizer.tensors)
    for ours, theirs in ((read.lora, written.lora), tensors, (read.ema, written.ema)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_only_safetensors_and_json_are_in_it(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, checkpoint(1), limit=3)
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}


def test_the_newest_is_by_number_and_the_oldest_go(tmp_path: Path) -> None:
    for step in (8, 9, 10, 100):
        write_checkpoint(tmp_path, checkpoint(step), limit=2)
    assert steps(tmp_path) == [10, 100]
    newest = latest(tmp_path)
    assert newest is not None
    assert newest.step == 100


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    assert latest(tmp_path / "absent") is None


@pytest.mark.parametrize(
    "file",
    ["lora.safetensors", "optimizer.safetensors", "ema.safetensors", "state.json", "manifest.json"],
)
@pytest.mark.parametrize("harm", ["cut", "flip", "remove"])
def test_a_broken_checkpoint_is_passed_over_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, harm: str
) -> None:
    write_checkpoint(tmp_path, checkpoint(1), limit=5)
    victim = write_checkpoint(tmp_path, checkpoint(2), limit=5) / file
    data = victim.read_bytes()
    if harm == "cut":
        victim.write_bytes(data[: len(data) // 2])
    elif harm == "flip":
        victim.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    else:
        victim.unlink()
    with caplog.at_level(logging.WARNING):
        found = latest(tmp_path)
    assert found is not None
    assert found.step == 1
    assert file in caplog.text


def test_a_manifest_that_lists_too_little_is_broken(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, checkpoint(1), limit=5)
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["state.json"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BrokenCheckpoint, match="does not list"):
        read_checkpoint(path)


def test_interrupted_writes_are_invisible_and_removed(tmp_path: Path) -> None:
    whole = write_checkpoint(tmp_path, checkpoint(1), limit=5)
    leftover = tmp_path / ".unfinished-checkpoint-2"
    shutil.copytree(whole, leftover)
    found = latest(tmp_path)
    assert found is not None
    assert found.step == 1
    write_checkpoint(tmp_path, checkpoint(3), limit=5)
    assert not leftover.exists()


def test_a_broken_newer_one_never_pushes_out_the_one_just_written(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, checkpoint(5), limit=1)
    (write_checkpoint(tmp_path, checkpoint(10), limit=2) / "state.json").unlink()
    write_checkpoint(tmp_path, checkpoint(8), limit=1)
    assert steps(tmp_path) == [8]


def test_a_broken_one_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    (write_checkpoint(tmp_path, checkpoint(4), limit=2) / "state.json").unlink()
    write_checkpoint(tmp_path, checkpoint(4), limit=2)
    found = latest(tmp_path)
    assert found is not None
    assert found.step == 4


def test_what_was_passed_over_is_reported(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, checkpoint(1), limit=5)
    (write_checkpoint(tmp_path, checkpoint(2), limit=5) / "optimizer.safetensors").write_bytes(b"")
    messages: list[str] = []
    found = latest(tmp_path, messages)
    assert found is not None
    assert found.step == 1
    assert len(messages) == 1
    assert messages[0].startswith("checkpoint-2 is broken and was passed over: ")
    assert "optimizer.safetensors is not what was written" in messages[0]


def test_a_checkpoint_may_be_moved(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "here", checkpoint(3), limit=5)
    (tmp_path / "here").rename(tmp_path / "there")
    found = latest(tmp_path / "there")
    assert found is not None
    assert found.step == 3
    assert str(tmp_path) not in (tmp_path / "there/checkpoint-3/state.json").read_text()


@pytest.mark.parametrize("broken", [1, 2, 3, 4, 5])
def test_a_full_disk_stops_the_write_and_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    write_checkpoint(tmp_path, checkpoint(1), limit=1)
    calls = 0
    real = os.fsync

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == broken:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(tmp_path, checkpoint(2), limit=1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    write_checkpoint(tmp_path, checkpoint(2), limit=1)
    assert steps(tmp_path) == [2]


def test_a_file_that_may_not_grow_is_an_error_of_the_system(tmp_path: Path) -> None:
    code = (
        "import resource, signal\n"
        "from pathlib import Path\n"
        "from dataclasses import replace\n"
        "import torch\n"
        "from tests.unit.training.test_checkpoints import checkpoint, steps\n"
        "from ltxcore.training.checkpoints import write_checkpoint\n"
        f"place = Path({str(tmp_path)!r})\n"
        "write_checkpoint(place, checkpoint(1), 1)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "big = replace(checkpoint(2), lora={'a.lora_A.weight': torch.zeros(100_000)})\n"
        "try:\n"
        "    write_checkpoint(place, big, 1)\n"
        "except OSError:\n"
        "    print([p.name for p in place.iterdir()])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "['checkpoint-1']", done.stderr[-2000:]
