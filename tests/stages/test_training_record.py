"""A training's record is sent to MLflow beside the steps, never in their way."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from ltxcore.stages.train_lora import record as module
from ltxcore.stages.train_lora.record import TrainingRecord
from ltxcore.tracking.mlflow_run import MlflowRun, Sent
from tests.stages.conftest import Bench

DEADLINE_S = 600


def test_steps_go_on_while_a_server_takes_its_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first sending only ends once later steps are done: in the steps' own thread it never would."""
    monkeypatch.setattr(module, "SYNC_EVERY_S", 0.0)
    later_steps, seen = threading.Event(), []

    def sync(self: MlflowRun, file: Path) -> Sent:
        assert later_steps.wait(DEADLINE_S)
        seen.append(len(file.read_text().splitlines()))
        return Sent()

    monkeypatch.setattr(MlflowRun, "sync", sync)
    bench.probe()
    record = TrainingRecord(bench.ctx, bench.root / "training", {})
    record.directory.mkdir()
    for step in range(1, 5):
        with record.metrics_file.open("a") as file:
            file.write(json.dumps({"step": step, "loss": 1.0}) + "\n")
        record.sync()
        assert not seen
    later_steps.set()
    record.send()
    assert seen[-1] == 4, "the last word has every step"
    assert len(seen) == 2, "one sending at a time"


def test_what_is_no_fault_of_mlflow_is_raised(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: MlflowRun, file: Path) -> Sent:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MlflowRun, "sync", full)
    bench.probe()
    record = TrainingRecord(bench.ctx, bench.root / "training", {})
    record.directory.mkdir()
    record.metrics_file.write_text('{"step": 1}\n')
    record.sync()
    with pytest.raises(OSError, match="No space left"):
        record.settle()
    record.settle()
