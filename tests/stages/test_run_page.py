"""The page of a run: what its stages did, the losses, and links."""

from __future__ import annotations

import json
from pathlib import Path

from ltxcore.execution.runner import open_execution, run_work
from ltxcore.jobs.report.run_page import BARS, LossCurve, RunPage
from ltxcore.jobs.report.write_pages import write_report
from ltxcore.pipeline.base.contract import PROBE, TEXT, TRAIN
from ltxcore.pipeline.base.progress import Progress
from tests.stages.conftest import Bench


def test_the_page_says_what_a_run_has_done_and_does(bench: Bench) -> None:
    ctx = bench.ctx
    run = ctx.workspace.run("a")
    execution = open_execution(PROBE, ctx, run)
    assert execution is not None
    run_work(execution)
    write_report(ctx, quarantined={})
    training = ctx.workspace.stages / TRAIN.name / ("0" * 16)
    training.mkdir(parents=True)
    page = RunPage(ctx, run, lambda file: f"http://files/{file.name}")
    assert "| train-lora | waits |" in page.markdown()

    progress = Progress(TRAIN.name, run, directory=ctx.workspace.relative(training))
    progress.begin(40, "steps", "loss 0.2500, 2 min left")
    record(training / "metrics.jsonl", [4.0, 2.0, 0.25])
    text = page.markdown()
    assert f"| {PROBE.name} | done |" in text
    assert f"| {TEXT.name} | waits |" in text
    assert "| train-lora | loss 0.2500, 2 min left | 0 of 40 steps |" in text
    assert "Loss over 3 steps: 4.0000 `█▄▁` 0.2500" in text
    assert "[The dataset](http://files/" in text
    assert "**Done**" not in text
    assert "**Done**" in page.markdown("Done")


def record(file: Path, losses: list[float]) -> None:
    file.write_text("".join(json.dumps({"loss": loss}) + "\n" for loss in losses))


def test_a_curve_reads_what_is_new_and_begins_again_with_its_file(tmp_path: Path) -> None:
    file, curve = tmp_path / "metrics.jsonl", LossCurve()
    curve.read(file)
    assert str(curve) == ""
    record(file, [3.0, 1.0])
    with file.open("a") as cut_short:
        cut_short.write('{"loss": ')
    curve.read(file)
    assert curve.losses == [3.0, 1.0]
    with file.open("a") as rest:
        rest.write("0.5}\n")
    curve.read(file)
    assert curve.losses == [3.0, 1.0, 0.5]
    another = tmp_path / "another"
    record(another, [2.0] * 100 + [1.0] * 100)
    another.replace(file)
    curve.read(file)
    assert len(curve.losses) == 200
    assert set(str(curve)) == {BARS[0], BARS[-1]}, "two halves, each of one height"
