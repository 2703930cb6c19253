"""What a running training shows: the time left, and one picture that is drawn anew."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ltxcore.pipeline.base.progress import Progress, duration, read_progress
from ltxcore.stages.train_lora import step_progress
from ltxcore.stages.train_lora.step_progress import StepProgress
from ltxcore.training.early_stop import Evaluated
from ltxcore.training.metrics import METRICS_FILE, MetricsLog, StepMetrics
from ltxcore.training.plot import plot_losses
from tasks import artifacts, loss_picture
from tasks.loss_picture import LossPicture


def metrics(step: int) -> StepMetrics:
    return StepMetrics(
        step=step,
        epoch=0,
        loss=2.0 / step,
        video_loss=1.0 / step,
        audio_loss=1.0 / step,
        learning_rate=1e-3,
        grad_norm=0.1,
        step_s=0.5,
        data_wait_s=0.0,
        peak_vram_bytes=0,
        peak_rss_bytes=1,
        sample_ids=("a",),
        weights={"video_loss": 1.0, "audio_loss": 1.0},
    )


@pytest.mark.parametrize(
    ("seconds", "message"),
    [
        (0.4, "0 s"),
        (89.4, "89 s"),
        (600, "10 min"),
        (5399, "90 min"),
        (5400, "1 h 30 min"),
        (90061, "25 h 01 min"),
    ],
)
def test_a_time_to_wait_in_the_unit_that_fits(seconds: float, message: str) -> None:
    assert duration(seconds) == message


def test_a_run_resumes_once_however_often_it_pauses(tmp_path: Path) -> None:
    for first in (301, 350):
        progress = Progress("train-lora", tmp_path)
        progress.begin(400, "steps")
        StepProgress(progress)(metrics(first))
    state = read_progress(tmp_path, "train-lora")
    assert state is not None
    assert state.resumed_at == 300


class Clock:
    """`time`, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_the_time_left_goes_by_the_latest_steps_with_what_is_between_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(step_progress, "time", clock)
    progress = Progress("train-lora", tmp_path)
    progress.begin(1000, "steps")
    display = StepProgress(progress)
    display(metrics(1))
    assert progress.state.message == "loss 2.0000 (video 1.0000 + audio 1.0000)", "one step foretells nothing"
    clock.now += 30
    display(metrics(2))
    assert progress.state.message == "loss 1.0000, 8 h 19 min left (video 0.5000 + audio 0.5000)"
    for step in range(3, 40):
        clock.now += 2
        display(metrics(step))
    assert ", 32 min left (" in progress.state.message, "a slow first step is forgotten"
    clock.now += 2
    display(metrics(1000))
    assert "left" not in progress.state.message


def test_the_picture_is_drawn_now_and_then_and_stays_one_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(loss_picture, "time", clock)
    shown: list[str] = []
    monkeypatch.setattr(
        artifacts, "create_image_artifact", lambda url, key, description: shown.append(url) or "0" * 32
    )

    class Client:
        def __enter__(self) -> Client:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def update_artifact(self, artifact_id: object, artifact: Any) -> None:
            assert str(artifact_id).replace("-", "") == "0" * 32
            shown.append(artifact.data)

    monkeypatch.setattr(artifacts, "get_client", lambda sync_client: Client())
    file, picture = tmp_path / METRICS_FILE, tmp_path / "loss.png"
    training_record: Any = SimpleNamespace(
        metrics_file=file, loss_picture=picture, plot=lambda: plot_losses(file, picture)
    )
    display = LossPicture(training_record)
    display.plot()
    assert not shown, "there is nothing to draw yet"
    with MetricsLog(file, continue_from=0) as record:
        for step, seconds, pictures in ((1, 10, 0), (2, 25, 1), (3, 10, 1), (4, 25, 2)):
            clock.now += seconds
            record.append(metrics(step))
            display(metrics(step))
            assert len(shown) == pictures
    assert all(url.startswith("data:image/png;base64,") for url in shown)
    assert shown[0] != shown[1]


def test_the_held_out_loss_is_in_the_picture(tmp_path: Path) -> None:
    import json
    from dataclasses import asdict

    with MetricsLog(tmp_path / METRICS_FILE, continue_from=0) as record:
        for step in (1, 2, 3):
            record.append(metrics(step))
    plot_losses(tmp_path / METRICS_FILE, tmp_path / "without.png", tmp_path / "nothing.jsonl")
    lines = [json.dumps(asdict(Evaluated(step, 3.0 - step, 1.0))) for step in (0, 2)]
    (tmp_path / "evaluations.jsonl").write_text("\n".join(lines) + "\n")
    plot_losses(tmp_path / METRICS_FILE, tmp_path / "with.png", tmp_path / "evaluations.jsonl")
    assert (tmp_path / "with.png").read_bytes() != (tmp_path / "without.png").read_bytes()
    lines = [json.dumps(asdict(Evaluated(step, 3.0 - step, 1.0, ema=2.0))) for step in (0, 2)]
    (tmp_path / "evaluations.jsonl").write_text("\n".join(lines) + "\n")
    plot_losses(tmp_path / METRICS_FILE, tmp_path / "average.png", tmp_path / "evaluations.jsonl")
    assert (tmp_path / "average.png").read_bytes() != (tmp_path / "with.png").read_bytes()
