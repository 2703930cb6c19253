"""Save, sample, and stop and keep, asked of a training that goes on."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from flows.child_process import ROOT
from flows.cli.app import app
from ltxcore.execution.execution import find_result
from ltxcore.execution.runner import Hooks, open_execution, run_work
from ltxcore.jobs.explain.explain import explain_stages
from ltxcore.jobs.pipeline import training_turns
from ltxcore.jobs.report.run_page import RunPage
from ltxcore.pipeline.base.contract import RENDER, TRAIN
from ltxcore.pipeline.base.stamp import Stamp, request_fingerprint
from ltxcore.pipeline.base.work import Stopped, Work
from ltxcore.stages.render_validation.request import request as render_request
from ltxcore.stages.train_lora import control
from ltxcore.stages.train_lora.control import ON_REQUEST, Requests
from ltxcore.stages.train_lora.sample_steps import reached_step, waiting_steps
from ltxcore.training.metrics import StepMetrics, read_metrics
from tests.stages.conftest import Bench

LORA = "lora/pytorch_lora_weights.safetensors"
Click = Callable[[], None]


def changed(bench: Bench, section: str, **keys: object) -> Bench:
    settings = getattr(bench.recipe, section).model_copy(update=keys)
    return Bench(bench.root, bench.recipe.model_copy(update={section: settings}))


class Clicks(Hooks):
    """Somebody who does something after a step, before the training looks for requests again."""

    def __init__(self, clicks: dict[int, Click]) -> None:
        self._clicks = clicks

    def unit(self, work: Work, do: Callable[[], Stopped | None]) -> Stopped | None:  # type: ignore[type-arg]
        def after(metrics: StepMetrics) -> None:
            self._clicks.get(metrics.step, lambda: None)()

        if hasattr(work, "watchers"):
            work.watchers.append(after)
        return do()


def train(bench: Bench, clicks: dict[int, Click] | None = None, pause_at: int = 0) -> Stamp | Stopped:
    """Run the stage in the run folder `a`."""
    execution = open_execution(TRAIN, bench.ctx, bench.ctx.workspace.run("a"))
    assert execution is not None
    ended = run_work(execution, Clicks(clicks or {}), pause_at)
    assert ended is not None
    return ended


def trained(bench: Bench) -> Path:
    (found,) = (path for path in (bench.root / "workspace/stages/train-lora").iterdir() if path.is_dir())
    return found


def steps(bench: Bench) -> list[int]:
    return [metrics.step for metrics in read_metrics(trained(bench) / "metrics.jsonl")]


def test_a_stop_survives_a_kill_and_leaves_the_lora_of_a_run_of_that_many_steps(
    bench: Bench, tmp_path: Path
) -> None:
    bench.prepare()
    short = changed(Bench(tmp_path / "short", bench.recipe), "training", max_train_steps=3)
    shutil.copytree(bench.root, short.root, ignore=shutil.ignore_patterns("short"))
    train(short)

    (bench.root / "recipe.json").write_text(bench.recipe.model_dump_json())
    command = [sys.executable, "-m", "tests.stages.killed_training", str(bench.root), "3"]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert reached_step(trained(bench)) == 2, "the request came after the checkpoint"

    # The step that was done when it was asked is done again, and is the last one.
    stamp = train(bench)
    assert isinstance(stamp, Stamp)
    assert (stamp.stopped_after, stamp.outcome.counts["steps"], steps(bench)) == (3, 3, [1, 2, 3])
    ours, theirs = load_file(trained(bench) / LORA), load_file(trained(short) / LORA)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert [m.loss for m in read_metrics(trained(bench) / "metrics.jsonl")] == [
        m.loss for m in read_metrics(trained(short) / "metrics.jsonl")
    ]

    # It stays so until somebody wishes otherwise; then it goes on, and loses nothing.
    assert find_result(TRAIN, bench.ctx)[1] == stamp
    asked = render_request(bench.ctx)["training"]
    (report,) = (report for report in explain_stages(bench.ctx) if report.stage == TRAIN.name)
    assert report.state == "up to date"
    assert report.why == [
        "it was stopped and kept after step 3; `ltx2 control continue` lets the next run go on"
    ]
    page = RunPage(bench.ctx, bench.ctx.workspace.run("a"), str).markdown()
    assert "| train-lora | done, stopped and kept after step 3 |" in page
    assert "goes on after step 3" in ltx2(bench, "continue", "a")
    assert find_result(TRAIN, bench.ctx)[1] is None
    whole = train(bench)
    assert isinstance(whole, Stamp)
    assert (whole.stopped_after, whole.outcome.counts["steps"]) == (None, 6)
    assert whole.outcome.facts["resume"]["step"] == 3
    assert render_request(bench.ctx)["training"] == whole.fingerprint != asked, "its rendering is another"
    assert "was not stopped" in ltx2(bench, "continue", "a", status=1)


def ltx2(bench: Bench, *arguments: str, status: int = 0) -> str:
    """`ltx2 control`, as it is typed."""
    workspace = ("--workspace", str(bench.root / "workspace"))
    done = CliRunner().invoke(app, ["control", *arguments, *workspace])
    assert done.exit_code == status, done.output
    return done.output


def test_commands_reach_a_training_between_its_steps(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = changed(bench, "training", max_train_steps=9, checkpoint_step_interval=100)
    bench = changed(
        bench,
        "validation",
        validation_step_interval=0,
        validation_prompts={"disc": "A red disc."},
        validation_resolution="64x64",
        validation_num_video_frames=9,
        validation_num_inference_steps=2,
        validation_guidance=1,
        validation_audio_guidance=1,
    )
    bench.prepare()
    said: list[str] = []
    checkpoints: list[int] = []

    def click(kind: str, times: int) -> Click:
        def clicks() -> None:
            said.extend(ltx2(bench, kind, "--wait", "0") for _ in range(times))
            checkpoints.append(reached_step(trained(bench)))

        return clicks

    # What comes within this time is the same click, also when the first has had its effect.
    monkeypatch.setattr(control, "ONE_CLICK_S", 3600.0)
    clicks = {1: click("save", 2), 3: click("save", 1), 4: click("sample", 2), 6: click("stop", 2)}
    order = []
    for turn in training_turns(bench.ctx):
        if turn.stage is TRAIN:
            ended = train(bench, clicks, turn.pause_at)
            order.append(f"train, part {turn.part}")
            assert turn.pause_at == ON_REQUEST
            if isinstance(ended, Stopped):
                assert (ended.paused_at, waiting_steps(trained(bench))) == (5, [5])
        else:
            render(bench, turn.ctx.step)
            order.append(f"render {turn.ctx.step}")
    assert order == ["train, part 0", "render 5", "train, part 1"]
    assert checkpoints == [0, 2, 2, 5], "a checkpoint once, at the step after the click"
    assert steps(bench) == [1, 2, 3, 4, 5, 6, 7], "no step is lost or done twice"
    assert said.pop(2) == "run a: a checkpoint of step 2 is written\n"
    assert all("run a: " in line and "asked for" in line for line in said)
    stamp = find_result(TRAIN, bench.ctx)[1]
    assert stamp is not None
    assert stamp.stopped_after == 7
    for kind in ("save", "sample", "stop"):
        assert "is over, after 7 steps" in ltx2(bench, kind, "a", status=1)
    assert "no training goes on" in ltx2(bench, "save", status=1)
    gallery = render(bench)
    assert "Step 5<" in (gallery / "index.html").read_text()
    assert (gallery / "steps/step-000005/disc-lora.mp4").stat().st_size > 0


def render(bench: Bench, step: int = 0) -> Path:
    """Run the stage; the folder of its gallery."""
    ctx = replace(bench.ctx, step=step)
    run = ctx.workspace.run("a")
    execution = open_execution(RENDER, ctx, run / f"step-{step:06d}" if step else run)
    assert execution is not None
    stamp = run_work(execution)
    assert isinstance(stamp, Stamp)
    return ctx.workspace.stages / RENDER.name / request_fingerprint(RENDER, stamp.request)[:16]


def test_a_request_that_cannot_be_read_is_dropped_and_one_from_further_on_waits(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.prepare()

    def spoil() -> None:
        folder = trained(bench) / "control"
        folder.mkdir(exist_ok=True)
        (folder / "stop").write_text("now!")

    def ask_of_later() -> None:
        assert Requests(trained(bench)).ask("stop", 0.0, step=5)

    # Where nobody renders between the steps, the LoRA of a sample is left for later.
    sampled = lambda: ltx2(bench, "sample", "--wait", "0")  # noqa: E731

    def too_late() -> None:
        assert Requests(trained(bench)).ask("save", 0.0, step=5)

    stamp = train(bench, {1: spoil, 2: ask_of_later, 3: sampled, 5: too_late})
    assert isinstance(stamp, Stamp)
    assert "control/stop" in caplog.text
    assert stamp.stopped_after == 5
    assert waiting_steps(trained(bench)) == [4]
    requests = Requests(trained(bench))
    assert not requests.waits("save"), "no later training does what was meant for this one"
    assert requests.answer("save") is not None
