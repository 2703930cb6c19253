"""Checkpoints: whole or absent, verified before use, safetensors and JSON only.

A `checkpoint-<step>` is written under a temporary name, its manifest (sha256 of every file) last, and
then renamed. The training's record so far is in it: it decides when to stop, and which step is the best. It
names no place, so its directory may be moved. No state of any random generator is in it: every draw of the
training is derived from seed and step.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from ltxcore.store.blobs import DamagedFile, read_json, sync_directory
from ltxcore.store.file_hashes import MANIFEST, faults_in, read_hashes, write_hashes
from ltxcore.training.optimizer import OptimizerState

log = logging.getLogger(__name__)

LORA, MOMENTS, STATE = "lora.safetensors", "optimizer.safetensors", "state.json"
EMA = "ema.safetensors"
"""There where the training keeps an average."""
RECORD_SUFFIX = ".jsonl"
NAME = re.compile(r"checkpoint-(\d+)")
UNFINISHED = ".unfinished-"


class BrokenCheckpoint(ValueError):
    """A checkpoint whose files do not match its manifest."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything that training continues from."""

    step: int
    """Optimizer steps done."""
    run_fingerprint: str
    """What the training is made of; another one must not be continued from here."""
    lora: dict[str, torch.Tensor]
    optimizer: OptimizerState
    schedule: dict[str, Any]
    ema: dict[str, torch.Tensor] | None = None
    request: dict[str, Any] = field(default_factory=dict)
    """What `run_fingerprint` is the hash of, as plain JSON: it can say what differs."""
    records: dict[str, bytes] = field(default_factory=dict)
    """The training's record up to here: name of a `.jsonl` file -> its content."""
    threads: int | None = None
    """Threads that each process computed with on a CPU; None: not known, or on a GPU."""


def write_checkpoint(directory: Path, checkpoint: Checkpoint, limit: int, keep: int | None = None) -> Path:
    """Publish `checkpoint-<step>` in `directory` and drop the oldest beyond `limit`, never the newest.

    The checkpoint of the step `keep`, the best one, stays as well, beside the newest `limit`.

    Raises:
        OSError: the disk is full or not writable; no checkpoint of that step appears then, and those before
            it stay.
    """
    directory.mkdir(parents=True, exist_ok=True)
    remove_unfinished(directory)
    target = directory / f"checkpoint-{checkpoint.step}"
    temporary = directory / f"{UNFINISHED}{target.name}"
    temporary.mkdir()
    try:
        _fill(temporary, checkpoint)
    except OSError:
        # What is half written takes the place that is missing.
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if target.exists():
        # A broken one, or one that training began before.
        _remove(target)
    temporary.rename(target)
    sync_directory(directory)
    _prune(directory, checkpoint.step, limit, keep)
    return target


def _fill(directory: Path, checkpoint: Checkpoint) -> None:
    _save(directory / LORA, checkpoint.lora)
    _save(directory / MOMENTS, checkpoint.optimizer.tensors)
    if checkpoint.ema is not None:
        _save(directory / EMA, checkpoint.ema)
    state = {
        "step": checkpoint.step,
        "run_fingerprint": checkpoint.run_fingerprint,
        "request": checkpoint.request,
        "optimizer": checkpoint.optimizer.numbers,
        "schedule": checkpoint.schedule,
        "threads": checkpoint.threads,
    }
    _write(directory / STATE, state)
    for name, content in checkpoint.records.items():
        (directory / name).write_bytes(content)
        _sync(directory / name)
    write_hashes(directory, sorted(directory.iterdir()))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint after verifying it.

    Raises:
        BrokenCheckpoint: a file is missing, or is not what was written.
    """
    files = _verify(path)
    state = read_json(path / STATE)
    return Checkpoint(
        step=state["step"],
        run_fingerprint=state["run_fingerprint"],
        lora=load_file(path / LORA),
        optimizer=OptimizerState(load_file(path / MOMENTS), state["optimizer"]),
        schedule=state["schedule"],
        ema=load_file(path / EMA) if EMA in files else None,
        request=state["request"],
        records={name: (path / name).read_bytes() for name in files if name.endswith(RECORD_SUFFIX)},
        # Checkpoints of before do not say.
        threads=state.get("threads"),
    )


def latest(directory: Path, passed_over: list[str] | None = None) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None.

    A broken one is skipped and logged, and added to `passed_over`.
    """
    for path in reversed(list_checkpoints(directory)):
        try:
            return read_checkpoint(path)
        except BrokenCheckpoint as error:
            log.warning("%s; trying the checkpoint before it", error)
            if passed_over is not None:
                passed_over.append(f"{path.name} is broken and was passed over: {error}")
    return None


def list_checkpoints(directory: Path) -> list[Path]:
    """Published checkpoints, by step."""
    if not directory.is_dir():
        return []
    return sorted((p for p in directory.iterdir() if NAME.fullmatch(p.name)), key=_step)


def remove_unfinished(directory: Path) -> None:
    """Remove the leftovers of interrupted writes."""
    if not directory.is_dir():
        return
    for leftover in directory.glob(f"{UNFINISHED}*"):
        shutil.rmtree(leftover)


def _step(path: Path) -> int:
    match = NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path} is not named checkpoint-<step>")
    return int(match.group(1))


def _save(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    # Through bytes: written by safetensors itself, a full disk would be no OSError.
    path.write_bytes(save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}))
    _sync(path)


def _write(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
    _sync(path)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _verify(path: Path) -> set[str]:
    """The names of the files, all of which are what was written.

    Raises:
        BrokenCheckpoint: they are not.
        OSError: one cannot be read.
    """
    try:
        names = set(read_hashes(path))
    except (FileNotFoundError, DamagedFile) as error:
        raise BrokenCheckpoint(f"{path} has no readable {MANIFEST} ({error})") from error
    if {name for name in names if not name.endswith(RECORD_SUFFIX)} - {EMA} != {LORA, MOMENTS, STATE}:
        raise BrokenCheckpoint(f"{path / MANIFEST} does not list {LORA}, {MOMENTS} and {STATE}")
    faults = faults_in(path)
    if unreadable := [fault for fault in faults if not fault.readable]:
        raise OSError(str(unreadable[0]))
    if faults:
        raise BrokenCheckpoint(str(faults[0]))
    return names


def _prune(directory: Path, newest: int, limit: int, keep: int | None) -> None:
    paths = list_checkpoints(directory)
    # Training continues from the newest whole checkpoint unless it is asked to begin anew: what is beyond the
    # one just written is broken, or of what was begun before.
    beyond = [path for path in paths if _step(path) > newest]
    whole = [path for path in paths if _step(path) <= newest]
    for path in (*beyond, *whole[: -max(1, limit)]):
        if _step(path) != keep:
            _remove(path)


def _remove(path: Path) -> None:
    """Delete a checkpoint in one step, so that a half-deleted one is not mistaken for a broken one."""
    gone = path.with_name(f"{UNFINISHED}{path.name}.gone")
    path.rename(gone)
    shutil.rmtree(gone)
