"""What is shown of a loss adds up: its parts, times their weights, are the total, with every technique."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch

from ltxcore.config.crepa_settings import CrepaSettings
from ltxcore.config.scheduled_sampling_settings import ScheduledSamplingSettings
from ltxcore.tracking.metrics_log import read_lines
from ltxcore.training.crepa import Alignment
from ltxcore.training.data import Batch
from ltxcore.training.metrics import MetricsLog, StepMetrics
from ltxcore.training.objective import Losses, Noised, NoisedBatch, frozen, losses
from ltxcore.training.plot import loss_curves
from ltxcore.training.scheduled_sampling import Rollout
from ltxcore.training.step import StepLosses, Unread
from tests.rounding import assert_adds_up
from tests.unit.toy_transformer import Inputs, make_transformer, velocity

FRAMES, TOKENS, TEACHER_WIDTH = 2, 4, 8
REFLEXFLOW = ScheduledSamplingSettings(
    scheduled_sampling_max_step_offset=4,
    scheduled_sampling_reflexflow_alpha=0.7,
    scheduled_sampling_reflexflow_beta1=10.0,
    scheduled_sampling_reflexflow_beta2=2.0,
)
OBJECTIVES = ("both", "pictures alone", "sound alone", "sound given", "masked")
TECHNIQUES = tuple(product((False, True), repeat=2))


def noised(tokens: int, channels: int, seed: int) -> Noised:
    draw = torch.Generator().manual_seed(seed)
    start, noise = (torch.randn(2, tokens, channels, generator=draw) for _ in range(2))
    sigma = torch.tensor([0.3, 0.7])
    mixed = (1 - sigma[:, None, None]) * start + sigma[:, None, None] * noise
    return Noised(mixed, noise - start, sigma, None, torch.ones(2, tokens))


def objective(kind: str) -> NoisedBatch:
    video, audio = noised(FRAMES * TOKENS, 16, 0), noised(5, 8, 1)
    if kind == "pictures alone":
        return NoisedBatch(video, None)
    if kind == "sound alone":
        return NoisedBatch(video, audio, has_video=False)
    if kind == "sound given":
        return NoisedBatch(video, frozen(audio.tokens))
    if kind == "masked":
        mask = torch.tensor([[1.0, 0, 1, 1, 0, 1, 1, 1], [0.0] * 8])
        return NoisedBatch(replace(video, mask=mask), replace(audio, mask=audio.mask * 0))
    return NoisedBatch(video, audio)


def batch_losses(kind: str, *, rolled: bool, aligned: bool) -> Losses:
    exact = objective(kind)
    draw = torch.Generator().manual_seed(2)
    astray = replace(
        exact.video, tokens=exact.video.tokens + 0.3 * torch.randn(exact.video.tokens.shape, generator=draw)
    )
    seen = replace(exact, video=astray)
    video = torch.randn(exact.video.tokens.shape, generator=draw)
    audio = None if exact.audio is None else torch.randn(exact.audio.tokens.shape, generator=draw)
    found = losses(video, audio, seen if rolled else exact)
    if rolled:
        found = Rollout(seen, exact, torch.tensor([3, 0])).losses(found, (video, audio), REFLEXFLOW)
    if aligned:
        transformer = make_transformer(layers=3)
        settings = CrepaSettings(
            crepa_enabled=True, crepa_encoder="tiny", crepa_block_index=1, crepa_lambda=0.3
        )
        crepa = Alignment(transformer, settings, TEACHER_WIDTH, "cpu", seed=3)
        velocity(transformer, Inputs.random(0))
        found = crepa.added_to(found, clips(kind))
        crepa.remove()
    return found


def clips(kind: str) -> Batch:
    teacher = torch.randn(2, FRAMES, TOKENS, TEACHER_WIDTH, generator=torch.Generator().manual_seed(4))
    sound = None if kind == "pictures alone" else torch.zeros(2, 5, 8)
    has_teacher = kind != "sound alone"
    return Batch(
        ("a", "b"),
        torch.zeros(2, 16, FRAMES, 2, 2),
        sound,
        None,
        (),
        25.0,
        teacher=teacher if has_teacher else None,
    )


def step_of(*found: tuple[str, Losses]) -> StepMetrics:
    step = StepLosses.read(1, [Unread.of(n, clips(kind), loss) for n, (kind, loss) in enumerate(found)])
    return StepMetrics(
        step=1,
        epoch=0,
        loss=step.total,
        video_loss=step.video,
        audio_loss=step.audio,
        learning_rate=0.1,
        grad_norm=1.0,
        step_s=0.1,
        data_wait_s=0.0,
        peak_vram_bytes=0,
        peak_rss_bytes=0,
        sample_ids=step.sample_ids,
        measures=step.measures,
        weights=step.weights,
    )


@pytest.mark.parametrize(("rolled", "aligned"), TECHNIQUES)
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_the_parts_of_a_batch_add_up(kind: str, rolled: bool, aligned: bool) -> None:
    metrics = step_of((kind, batch_losses(kind, rolled=rolled, aligned=aligned)))
    assert_adds_up(metrics.loss, metrics.parts)
    assert ("reflexflow_drift" in metrics.parts) == rolled
    assert ("crepa_loss" in metrics.parts) == (aligned and kind != "sound alone")


def test_the_parts_of_a_step_add_up_where_its_batches_have_different_ones(tmp_path: Path) -> None:
    mixed = [
        (kind, batch_losses(kind, rolled=rolled, aligned=aligned))
        for kind, (rolled, aligned) in zip(OBJECTIVES, [*TECHNIQUES, (True, True)], strict=True)
    ]
    metrics = step_of(*mixed)
    assert_adds_up(metrics.loss, metrics.parts)
    assert metrics.weights["reflexflow_drift"] == pytest.approx(10.0 * 3 / 5)
    assert metrics.weights["audio_loss"] == pytest.approx(3 / 5)
    with MetricsLog(tmp_path / "metrics.jsonl", continue_from=0) as log:
        log.append(metrics)
    sent = read_lines(tmp_path / "metrics.jsonl").lines[0].numbers
    parts = {name: (sent[f"{name}_weight"], sent[name]) for name in metrics.parts}
    assert_adds_up(sent["loss"], parts)
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["weights"] == metrics.weights
    shown = metrics.shown_sum.split(" + ")
    assert len(shown) == len(parts)
    terms = [(text.rpartition(" ")[2], text.partition(" x ")[0]) for text in shown]
    total = sum(
        float(value) * (float(weight) if " x " in text else 1)
        for text, (value, weight) in zip(shown, terms, strict=True)
    )
    assert total == pytest.approx(metrics.loss, abs=1e-3)


def test_a_curve_is_drawn_as_it_weighs_in_the_loss_and_says_so() -> None:
    whole = step_of(("both", batch_losses("both", rolled=True, aligned=False)))
    rolled_in_part = step_of(
        *(("both", batch_losses("both", rolled=r, aligned=False)) for r in (True, False))
    )
    for metrics, label in ((whole, "10 x reflexflow_drift"), (rolled_in_part, "5 x reflexflow_drift")):
        curves = loss_curves([metrics])
        assert label in curves
        ((_, loss),) = curves.pop("loss")
        assert_adds_up(loss, {name: (1.0, value) for name, ((_, value),) in curves.items()})
    assert "reflexflow_drift, weighted" in loss_curves([whole, rolled_in_part])
