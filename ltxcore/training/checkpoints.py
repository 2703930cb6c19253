"""Checkpoints: whole or absent, verified before use, safetensors and JSON only.

A `checkpoint-<step>` is written under a temporary name, its manifest (sha256 of every file) last, and
then renamed. It names no place, so its directory may be moved. No state of any random generator is in it:
every draw of the training is derived from seed and step.
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

from ltxcore.store.blobs import read_json, sync_directory
from ltxcore.store.fingerprint import hash_file
from ltxcore.training.optimizer import OptimizerState

log = logging.getLogger(__name__)

LORA, MOMENTS, STATE, MANIFEST = "lora.safetensors", "optimizer.safetensors", "state.json", "manifest.json"
EMA = "ema.safetensors"
"""There where the training keeps an average."""
NAME = re.compile(r"checkpoint-(\d+)")
UNFINISHED = ".unfinished-"


class BrokenCheckpoint(ValueError):
    """A checkpoint whose files are not those of its manifest."""


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
        shutil.rmtree(target)
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
    }
    _write(directory / STATE, state)
    _write(directory / MANIFEST, {file.name: hash_file(file) for file in sorted(directory.iterdir())})
    sync_directory(directory)


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
    )


def latest(directory: Path, passed_over: list[str] | None = None) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None.

    A broken one is logged and passed over; `passed_over` gets a line of it.
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
    """Remove what interrupted writes left behind."""
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
    """The names of the files, all of which are what was written."""
    try:
        manifest = read_json(path / MANIFEST)
    except (OSError, ValueError) as error:
        raise BrokenCheckpoint(f"{path} has no readable {MANIFEST} ({error})") from error
    if not isinstance(manifest, dict) or manifest.keys() - {EMA} != {LORA, MOMENTS, STATE}:
        raise BrokenCheckpoint(f"{path / MANIFEST} does not list {LORA}, {MOMENTS} and {STATE}")
    for name, digest in manifest.items():
        file = path / name
        if not file.is_file():
            raise BrokenCheckpoint(f"{file} is missing")
        if hash_file(file) != digest:
            raise BrokenCheckpoint(f"{file} is not what was written: its sha256 is not the manifest's")
    return set(manifest)


def _prune(directory: Path, newest: int, limit: int, keep: int | None) -> None:
    paths = list_checkpoints(directory)
    # Training continues from the newest whole checkpoint unless it is told to begin anew: what is beyond the
    # one just written is broken, or of what was begun before.
    beyond = [path for path in paths if _step(path) > newest]
    whole = [path for path in paths if _step(path) <= newest]
    for path in (*beyond, *whole[: -max(1, limit)]):
        if _step(path) != keep:
            shutil.rmtree(path)
