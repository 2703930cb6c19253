"""The paths by which the project commits something, each as a piece of work that can be done again.

`state` reads what is committed as the product reads it, and raises where a thing is there and not whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from bench.faults.object_store import object_store
from bench.faults.stored import (
    SAMPLES,
    State,
    Torn,
    digest,
    fill,
    put_latents,
    put_texts,
    put_waveforms,
    store_state,
    tidy,
)
from ltxcore.config.recipe import Recipe
from ltxcore.pipeline.base.contract import RENDER
from ltxcore.pipeline.base.stamp import (
    ManifestEntry,
    Outcome,
    newest_stamp,
    output_file,
    read_manifest,
    write_manifest,
    write_stamp,
)
from ltxcore.store.blobs import Blobs, write_atomic
from ltxcore.store.refs import Ref, Refs
from ltxcore.store.snapshot import Snapshot
from ltxcore.store.workspace import UnknownSnapshot, Workspace
from ltxcore.training.adapters import Adapter
from ltxcore.training.checkpoints import Checkpoint, list_checkpoints, read_checkpoint, write_checkpoint
from ltxcore.training.export import Lineage, export_lora
from ltxcore.training.optimizer import OptimizerState


@dataclass(frozen=True)
class CommitPath:
    """One way in which something is committed."""

    name: str
    prepare: Callable[[Path], object]
    """What was committed before."""
    work: Callable[[Path], object]
    """Commits more; done again it ends the same, whatever happened before."""
    state: Callable[[Path], State]


def _numbers(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().contiguous().numpy()


def _store(root: Path) -> Blobs:
    return Blobs(root / "store")


def _request(number: int) -> dict[str, Any]:
    return {"number": number}


def stamp(root: Path, number: int) -> None:
    """A stage's output and its stamp."""
    workspace = Workspace(root / "workspace")
    directory = workspace.stages / RENDER.name / f"output-{number}"
    write_atomic(directory / "page.html", f"page {number}".encode())
    files = (output_file(workspace, directory / "page.html"),)
    outcome = Outcome(counts={"renderings": number}, files=files)
    write_stamp(workspace, RENDER, _request(number), outcome, 0.0, 1)


def stamp_state(root: Path) -> State:
    """The newest stamp, whose output must be there."""
    workspace = Workspace(root / "workspace")
    newest = newest_stamp(workspace, RENDER)
    if newest is None:
        raise Torn("the stamp that was written before is gone")
    for file in newest.outcome.files:
        if not (workspace.root / file.path).is_file():
            raise Torn(f"{file.path} is stamped and is not there")
    return {"newest": digest(newest.request, newest.outcome)}


def _snapshot(number: int) -> Snapshot:
    return Snapshot(roots={}, samples=(), rejections=(), wants_audio=False, fps=(float(number),))


def save_snapshot(root: Path, number: int) -> None:
    """A snapshot that becomes the latest."""
    Workspace(root / "workspace").save_snapshot(_snapshot(number))


def snapshot_state(root: Path) -> State:
    """The latest snapshot, and all that can be read by their ids."""
    workspace, found = Workspace(root / "workspace"), State()
    for number in (1, 2):
        try:
            found[str(number)] = digest(workspace.load_snapshot(_snapshot(number).id))
        except UnknownSnapshot:
            continue
    return found | {"latest": digest(workspace.load_snapshot())}


def notes(root: Path, number: int) -> None:
    """What a run had of a stage, and what of the store that needs."""
    workspace, stamped = Workspace(root / "workspace"), f"output-{number}/stage.json"
    entry = ManifestEntry(
        stage=RENDER.name,
        stamp=stamped,
        up_to_date=False,
        seconds=0.0,
        process=1,
        counts={"renderings": number},
        why="first run",
    )
    write_manifest(workspace.run("run"), entry)
    needs = {"latents": (f"latent-{number}",)}
    Refs(workspace.store).publish("id", Ref(workspace=str(root), directory="output", needs=needs))


def notes_state(root: Path) -> State:
    """Both notes."""
    workspace = Workspace(root / "workspace")
    # The new reference is there before the old one goes.
    needed = max(Refs(workspace.store).load().values(), key=lambda ref: ref.needs["latents"])
    return {
        "manifest": digest(read_manifest(workspace.run("run"), RENDER)),
        "needs": digest(needed.needs),
    }


def checkpoint(step: int) -> Checkpoint:
    """A checkpoint of a small adapter, its values drawn from the step."""
    generator = torch.Generator().manual_seed(step)
    values = [torch.randn(2, 3, generator=generator) for _ in range(3)]
    name = "a.lora_A.weight"
    moments = OptimizerState({f"{name}/exp_avg": values[1]}, {f"{name}/count": step})
    return Checkpoint(step, "f", {name: values[0]}, moments, {"last_epoch": step}, {name: values[2]})


def checkpoint_state(root: Path) -> State:
    """The checkpoints that are listed, each of which must be whole."""
    found = {}
    for path in list_checkpoints(root / "training"):
        read = read_checkpoint(path)
        found[path.name] = digest(
            *map(_numbers, [*read.lora.values(), *read.optimizer.tensors.values()]), read.step
        )
    return found


@cache
def _adapter(scale: float) -> Adapter:
    name = "transformer_blocks.0.attn1.to_q"
    return Adapter(
        {f"{name}.lora_A.weight": torch.ones(2, 8) * scale, f"{name}.lora_B.weight": torch.ones(8, 2)},
        {name: 1.0},
    )


def export(root: Path, scale: float) -> None:
    """Both files of a LoRA."""
    export_lora(root / "lora", "x", _adapter(scale), Lineage("base", "snapshot", Recipe()))


def lora_state(root: Path) -> State:
    """The LoRA's files."""
    files = sorted((root / "lora").glob("*.safetensors"))
    return {file.name: digest(*map(_numbers, load_file(file).values())) for file in files}


def commit_paths() -> list[CommitPath]:
    """All of them, on a disk and, where they may lie there, on an object store."""
    return [*_of_stores("", _store), *_of_stores(" on an object store", object_store), *_of_workspaces()]


def _of_stores(where: str, opened: Callable[[Path], Blobs]) -> list[CommitPath]:
    def path(name: str, prepare: Callable[[Blobs], None], work: Callable[[Blobs], None]) -> CommitPath:
        return CommitPath(
            f"{name}{where}",
            lambda root: prepare(opened(root)),
            lambda root: work(opened(root)),
            lambda root: store_state(opened(root)),
        )

    return [
        path("latents", lambda blobs: put_latents(blobs, 2), lambda blobs: put_latents(blobs, SAMPLES)),
        path("waveforms", lambda blobs: put_waveforms(blobs, 2), lambda blobs: put_waveforms(blobs, SAMPLES)),
        path("texts", lambda blobs: put_texts(blobs, 2), lambda blobs: put_texts(blobs, SAMPLES)),
        path("index and compaction", fill, tidy),
    ]


def _of_workspaces() -> list[CommitPath]:
    return [
        CommitPath("stamp", partial(stamp, number=1), partial(stamp, number=2), stamp_state),
        CommitPath(
            "snapshot", partial(save_snapshot, number=1), partial(save_snapshot, number=2), snapshot_state
        ),
        CommitPath("notes of a run", partial(notes, number=1), partial(notes, number=2), notes_state),
        CommitPath(
            "checkpoint",
            lambda root: [write_checkpoint(root / "training", checkpoint(n), limit=2) for n in (1, 2)],
            lambda root: write_checkpoint(root / "training", checkpoint(3), limit=2),
            checkpoint_state,
        ),
        CommitPath("LoRA", partial(export, scale=1.0), partial(export, scale=2.0), lora_state),
    ]
