"""Checkpoints: whole or absent, verified, pruned but never the newest."""

from __future__ import annotations

import json
import logging
import shutil
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


def checkpoint(step: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    return Checkpoint(
        step=step,
        run_fingerprint="f",
        lora={"a.lora_A.weight": torch.randn(2, 3, generator=generator)},
        moments={
            "a.lora_A.weight/exp_avg": torch.randn(2, 3, generator=generator),
            "a.lora_A.weight/step": torch.tensor(float(step)),
        },
        schedule={"last_epoch": step, "last_lr": [0.1 / 3]},
    )


def steps(directory: Path) -> list[int]:
    return [int(path.name.removeprefix("checkpoint-")) for path in list_checkpoints(directory)]


def test_what_is_written_is_read_to_the_bit(tmp_path: Path) -> None:
    written = checkpoint(7)
    read = read_checkpoint(write_checkpoint(tmp_path, written, limit=3))
    assert (read.step, read.run_fingerprint, read.schedule) == (7, "f", written.schedule)
    for ours, theirs in ((read.lora, written.lora), (read.moments, written.moments)):
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


@pytest.mark.parametrize("file", ["lora.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
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
