"""Two stages and a parent that leave traces, for the tests of the orchestration."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from prefect import flow

from flows.gpu_lease import gpu_lease
from flows.interrupt import stop_on_sigterm
from flows.run_stage import run_stage
from ltxcore.config.memory_settings import MemorySettings
from ltxcore.pipeline.plan.out_of_memory_record import MemoryRetry, OutOfMemoryRecord

# Another test of the same process may have imported it before.
TORCH_WAS_HERE = "torch" in sys.modules


def note(workspace: str, stage: str) -> None:
    with (Path(workspace) / "trace").open("a") as trace:
        trace.write(f"{stage} {os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES', '-')}\n")


@flow(name="first-stage")
def first_stage(workspace: str = "", mode: str = "") -> None:
    note(workspace, "first")
    while mode == "wait" and not (Path(workspace) / "go").exists():
        time.sleep(0.1)


@flow(name="second-stage")
def second_stage(workspace: str = "", mode: str = "") -> None:
    """Do what `mode` says; a file `mended` in the workspace stops it from failing."""
    note(workspace, "second")
    root = Path(workspace)
    if (root / "mended").exists():
        return
    if mode == "out-of-memory":
        record = OutOfMemoryRecord(root, MemorySettings())
        if len(record.all()) < 2:
            record.note(f"plan {len(record.all())}", "it held too much")
            raise RuntimeError("out of memory")
    if mode == "raise":
        raise ValueError("the second stage is broken")
    if mode == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "kill-with-lease":
        with gpu_lease():
            os.kill(os.getpid(), signal.SIGKILL)
    if mode == "lease":
        with gpu_lease():
            note(workspace, "leased")
    if mode == "sleep":
        (root / "at-work").touch()
        time.sleep(600)
    if mode == "train":
        with stop_on_sigterm() as should_stop:
            (root / "at-work").touch()
            while not should_stop():
                # As long as a step of a large model: all that comes on the parent's end falls into one.
                time.sleep(3)
            (root / "checkpoint").write_text("whole")


@flow(name="two-stages")
def two_stages(workspace: str = "", mode: str = "", retries: int = 0) -> None:
    note(workspace, "parent")
    run_stage(first_stage, {"workspace": workspace, "mode": mode})
    again = MemoryRetry(OutOfMemoryRecord(Path(workspace), MemorySettings()))
    run_stage(second_stage, {"workspace": workspace, "mode": mode}, retries=retries, again=again)
    if "torch" in sys.modules and not TORCH_WAS_HERE:
        raise AssertionError("the parent has imported torch")
