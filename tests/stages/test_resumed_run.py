"""A training that was stopped and goes on in another run: what that run says of itself."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows.display import print_summary
from flows.stage_lines import StageLines
from ltxcore.execution.execution import Execution, find_result
from ltxcore.pipeline.base.contract import TRAIN
from ltxcore.pipeline.base.stamp import Outcome, read_manifest
from ltxcore.stages.train_lora.request import request as train_lora_request
from ltxcore.stages.train_lora.step_progress import StepProgress
from ltxcore.stages.train_lora.training import Training
from ltxcore.training.loop import TrainingInterrupted
from tests.stages.conftest import Bench


def test_a_run_tells_what_an_earlier_one_had_done(bench: Bench) -> None:
    bench.prepare()
    workspace = bench.ctx.workspace
    stopped, resumed = (Execution(TRAIN, bench.ctx, *_asked(bench, name)) for name in "ab")
    with pytest.raises(TrainingInterrupted) as caught:
        _train_as_shown(stopped, stop_after=4)
    assert caught.value.kept == "its checkpoint is at step 4"
    resumed.finish(_train_as_shown(resumed))
    entry = read_manifest(workspace.run("b"), TRAIN)
    assert entry is not None
    assert (entry.counts["done"], entry.counts["hits"], entry.why) == (2, 4, "resumed at step 4")
    pipe = io.StringIO()
    console = Console(file=pipe, width=200)
    StageLines(workspace.run("b"), [TRAIN.name]).watch(console, lambda: False, lambda seconds: None)
    assert ", resumed at step 4 (2 done, 4 hits)" in pipe.getvalue()
    print_summary(console, workspace, workspace.run("b"), "make serve")
    assert "train-lora  resumed at step 4" in pipe.getvalue()
    _, stamp = find_result(TRAIN, bench.ctx)
    assert stamp is not None
    assert stamp.outcome.counts["done"] == 6, "what the result came to is the same without a pause"


def _asked(bench: Bench, name: str) -> tuple[dict[str, Any], Path]:
    return train_lora_request(bench.ctx), bench.ctx.workspace.run(name)


def _train_as_shown(run: Execution, stop_after: int = 0) -> Outcome:
    """Train as the stage does, with what it shows."""
    training = Training(run.ctx, run.directory, run.request, "cpu")
    run.progress.begin(6, "steps")
    result = training.run(
        StepProgress(run.progress), lambda: stop_after != 0 and run.progress.state.done == stop_after
    )
    assert result is not None
    return training.finish(result)
