"""First and last loss of a training: of steps whose loss is the sum of the same parts."""

from __future__ import annotations

import pytest

from ltxcore.training.metrics import StepMetrics, comparable_ends


def step(number: int, video: float, audio: float | None) -> StepMetrics:
    weights = {"video_loss": 1.0} | ({} if audio is None else {"audio_loss": 1.0})
    return StepMetrics(
        number, 1, video + (audio or 0.0), video, audio, 1e-4, 1.0, 1.0, 0.0, 0, 0, (), weights=weights
    )


def test_silent_steps_do_not_make_the_loss_fall() -> None:
    sounding = [step(number, 1.0, 3.0) for number in range(1, 31)]
    silent = [step(number, 1.0, None) for number in range(31, 41)]
    assert comparable_ends([*sounding, *silent]) == (4.0, 4.0)


def test_a_short_training_is_no_single_step_against_another() -> None:
    losses = [9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]
    first, last = comparable_ends([step(n, loss, None) for n, loss in enumerate(losses, 1)])
    assert first == pytest.approx((9 + 4) / 5)
    assert last == pytest.approx(4 / 5)
    assert comparable_ends([step(1, 2.0, None)]) == (2.0, 2.0)
