"""One process of a training in several: `python -m ltxcore.stages.train_lora.process DIRECTORY RANK`."""

from __future__ import annotations

import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

from ltxcore.memory.device import cap_device_memory, pick_device
from ltxcore.memory.out_of_memory import is_out_of_memory
from ltxcore.pipeline.base.context import Context
from ltxcore.stages.train_lora.team import (
    INTERRUPTED,
    PAUSED,
    Ended,
    TeamAssignment,
    end_file,
    job_file,
    stop_file,
)
from ltxcore.stages.train_lora.training import Training
from ltxcore.store.blobs import read_model, write_json
from ltxcore.store.workspace import Workspace
from ltxcore.training.loop import TrainingInterrupted

logger = logging.getLogger(__name__)

FAILED = 1
ORPHANED = 3


def main(directory: Path, rank: int) -> NoReturn:
    """Take part in the training that the directory's job describes, then exit, with 0 on success."""
    _end_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    job = read_model(job_file(directory), TeamAssignment)
    try:
        device = _join(job, directory, rank)
        cap_device_memory(device, job.recipe.memory.vram_gib)
        workspace = Workspace(job.workspace)
        ctx = Context(workspace, job.recipe, Path(job.datasets_file), job.snapshot)
        training = Training(ctx, Path(job.directory), job.request, device, job.memory_plan)
        result = training.compute(lambda metrics: None, stop_file(directory).exists, job.pause_at)
        if result is None:
            paused = Ended(kind=PAUSED, message="paused for samples")
            write_json(end_file(directory, rank), paused.model_dump())
    except TrainingInterrupted as stopped:
        ended = Ended(kind=INTERRUPTED, message=str(stopped), interrupted_after=stopped.step)
        write_json(end_file(directory, rank), ended.model_dump())
    except Exception as error:
        logger.exception("the training failed")
        write_json(end_file(directory, rank), _failure(error).model_dump())
        # The others wait for this process in a collective operation: leaving it properly would wait too.
        _exit(FAILED)
    _leave()
    _exit(0)


def _failure(error: Exception) -> Ended:
    return Ended(kind=type(error).__name__, message=str(error), out_of_memory=is_out_of_memory(error))


def _join(job: TeamAssignment, directory: Path, rank: int) -> str:
    """Join the process group, and choose the device. A file is the meeting point, so nothing listens."""
    import torch

    device = pick_device()
    if device == "cuda":
        found = torch.cuda.device_count()
        if found < job.count:
            raise ValueError(
                f"processes.count is {job.count}, but this machine has {found} CUDA devices; give {found}"
            )
        torch.cuda.set_device(rank)
    store = torch.distributed.FileStore(str(directory / "meeting"), job.count)
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=job.count)
    return device


def _leave() -> None:
    import torch

    torch.distributed.destroy_process_group()


def _exit(status: int) -> NoReturn:
    """Exit immediately: everything is on disk, and there is nothing to clean up.

    Python's own way out ends threads of torch and gloo wherever they happen to be. Where that is C++ code,
    the process aborts ("terminate called without an active exception"), and a finished training has failed.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _end_with_parent() -> None:
    """Exit as soon as the stage is gone: its end of the pipe closes then, also where it was killed."""

    def watch() -> Any:
        os.read(sys.stdin.fileno(), 1)
        os._exit(ORPHANED)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
