"""Rollouts: who is rolled how far, that the levels are right, and what ReflexFlow makes of the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from ltxcore.config.recipe import Recipe
from ltxcore.config.scheduled_sampling_settings import ScheduledSamplingSettings
from ltxcore.config.training_settings import TrainingSettings
from ltxcore.training.objective import Noised, NoisedBatch, losses, masked_loss
from ltxcore.training.scheduled_sampling import (
    Rollout,
    Velocities,
    draw_offsets,
    integrate,
    reflexflow,
    roll_out,
)
from tests.rounding import assert_alike, bound

STEPS = 16
"""Sums from a clip to where four steps of an integration lead."""

Values = dict[str, Any]
OFFSETS = torch.tensor([4, 0, 2])


def settings(**changes: Any) -> ScheduledSamplingSettings:
    return ScheduledSamplingSettings(**{f"scheduled_sampling_{name}": v for name, v in changes.items()})


def recipe(**changes: Any) -> Recipe:
    return Recipe(
        scheduled_sampling=settings(**{"max_step_offset": 4, "prob_end": 1.0, **changes}),
        training=TrainingSettings(seed=3),
    )


def modality(sigma: torch.Tensor, tokens: int, seed: int, clean: torch.Tensor | None = None) -> Noised:
    draw = torch.Generator().manual_seed(seed)
    start, noise = (torch.randn(len(sigma), tokens, 5, generator=draw) for _ in range(2))
    mask = torch.ones(len(sigma), tokens)
    plain = Noised(start, noise - start, sigma, clean, mask if clean is None else mask.masked_fill(clean, 0))
    level = plain.times.reshape(len(sigma), -1, 1)
    return replace(plain, tokens=(1 - level) * start + level * noise)


def noised(clean: torch.Tensor | None = None, video: tuple[float, ...] = (0.3, 0.5, 0.9985)) -> NoisedBatch:
    return NoisedBatch(
        modality(torch.tensor(video), 6, 0, clean), modality(torch.tensor([0.6, 0.2, 0.1]), 4, 1)
    )


class Watched(nn.Module):
    """Velocities by a rule, and a note of the levels at which they were asked for."""

    def __init__(self, exact: NoisedBatch, error: float = 0.0) -> None:
        super().__init__()
        self.exact, self.error = exact, error
        self.seen: list[NoisedBatch] = []
        self.modes: list[tuple[bool, bool]] = []

    def forward(self, at: NoisedBatch) -> Velocities:
        self.seen.append(at)
        self.modes.append((self.training, torch.is_grad_enabled()))
        assert self.exact.audio is not None
        return self.exact.video.target + self.error, self.exact.audio.target + self.error


def pairs(first: NoisedBatch, second: NoisedBatch) -> list[tuple[Noised, Noised]]:
    assert first.audio is not None
    assert second.audio is not None
    return [(first.video, second.video), (first.audio, second.audio)]


def test_the_exact_velocity_leads_back_to_the_exact_mixture() -> None:
    exact = noised()
    found = integrate(Watched(exact), exact, OFFSETS, 4)
    for ours, theirs in pairs(found, exact):
        assert_alike(ours.tokens, theirs.tokens, STEPS)
        assert torch.equal(ours.sigma, theirs.sigma)
        assert torch.equal(ours.target, theirs.target)


def test_levels_fall_from_more_noise_to_the_samples_own() -> None:
    exact = noised()
    model = Watched(exact)
    integrate(model, exact, OFFSETS, 4)
    video = torch.stack([at.video.sigma for at in model.seen])
    audio = torch.stack([at.audio.sigma for at in model.seen if at.audio is not None])
    torch.testing.assert_close(video[:, 0], torch.tensor([0.304, 0.303, 0.302, 0.301]))
    torch.testing.assert_close(audio[:, 0], torch.tensor([0.604, 0.603, 0.602, 0.601]))
    torch.testing.assert_close(video[:, 1], torch.full((4,), 0.5))
    # No level above 1: the two steps from there are shorter.
    torch.testing.assert_close(video[:, 2], torch.tensor([1.0, 0.99925, 0.9985, 0.9985]))
    # What the model first sees is the same clip and the same noise at that level.
    start = exact.video.tokens - exact.video.sigma[:, None, None] * exact.video.target
    level = video[0][:, None, None]
    mixture = (1 - level) * start + level * (start + exact.video.target)
    assert_alike(model.seen[0].video.tokens, mixture, STEPS)


def test_an_error_of_the_model_stays_in_what_is_trained_on() -> None:
    exact = noised()
    found = integrate(Watched(exact, error=0.5), exact, OFFSETS, 4)
    for ours, theirs in pairs(found, exact):
        moved = theirs.tokens - ours.tokens
        above = (theirs.sigma + OFFSETS / 1000).clamp(max=1) - theirs.sigma
        expected = (above * 0.5)[:, None, None].expand_as(moved)
        # A difference of tokens, which are larger than it.
        allowed = bound(STEPS, float(theirs.tokens.abs().max()))
        torch.testing.assert_close(moved, expected, rtol=0, atol=allowed)
        assert torch.equal(ours.tokens[1], theirs.tokens[1]), "not rolled, so untouched"


def test_given_tokens_and_given_modalities_stay_as_they_are() -> None:
    clean = torch.zeros(3, 6, dtype=torch.bool)
    clean[0, :2] = True
    exact = noised(clean)
    assert exact.audio is not None
    exact = replace(exact, audio=replace(exact.audio, sigma=torch.zeros(3)))
    model = Watched(exact, error=1.0)
    found = integrate(model, exact, OFFSETS, 4)
    assert torch.equal(found.video.tokens[0, :2], exact.video.tokens[0, :2])
    assert not torch.equal(found.video.tokens[0, 2:], exact.video.tokens[0, 2:])
    assert all(not at.video.times[0, :2].any() for at in model.seen)
    for at in (*model.seen, found):
        assert at.audio is not None
        assert torch.equal(at.audio.tokens, exact.audio.tokens)  # type: ignore[union-attr]
        assert not at.audio.sigma.any()


def test_a_rollout_is_sampling_without_dropout_and_gradients() -> None:
    exact = noised()
    model = Watched(exact).train()
    rollout = roll_out(model, model, exact, recipe(strategy="biased_late"), 0)
    assert rollout is not None
    assert len(model.seen) == int(rollout.offsets.max())
    assert set(model.modes) == {(False, False)}
    assert model.training
    assert torch.is_grad_enabled()


def test_off_computes_nothing() -> None:
    exact = noised()
    model = Watched(exact)
    for off in ({"max_step_offset": 0}, {"prob_end": 0.0}):
        assert roll_out(model, model, exact, recipe(**off), 0) is None
    before_the_ramp = roll_out(model, model, exact, recipe(start_step=1), 0)
    assert before_the_ramp is not None
    assert before_the_ramp.noised is exact
    plain = losses(exact.video.target + 1, None, NoisedBatch(exact.video, None))
    found = before_the_ramp.losses(plain, (exact.video.target + 1, None), settings(max_step_offset=4))
    assert found.total is plain.total
    assert not model.seen
    barred = roll_out(model, model, exact, recipe(), 1, allowed=False)
    assert barred is not None
    assert barred.noised is exact
    assert not model.seen
    roll_out(model, model, exact, recipe(start_step=1), 1)
    assert model.seen


def test_processes_make_equally_many_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    # Another process has a sample that is rolled out by 7 steps; here none is.
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda most, op: most.fill_(7))
    exact = noised()
    model = Watched(exact, error=1.0)
    rollout = roll_out(model, model, exact, recipe(start_step=1), 0)
    assert rollout is not None
    assert len(model.seen) == 7
    for ours, theirs in pairs(rollout.noised, exact):
        assert torch.equal(ours.tokens, theirs.tokens)
        assert torch.equal(ours.sigma, theirs.sigma)


def test_rollouts_belong_to_seed_and_batch() -> None:
    exact = noised()

    def offsets(seed: int) -> list[list[int]]:
        job = recipe().model_copy(update={"training": TrainingSettings(seed=seed)})
        torch.manual_seed(seed + 17)
        rollouts = [roll_out(Watched(exact), Watched(exact), exact, job, number) for number in range(6)]
        return [rollout.offsets.tolist() for rollout in rollouts if rollout is not None]

    assert offsets(3) == offsets(3)
    assert offsets(3) != offsets(4)
    assert len({tuple(found) for found in offsets(3)}) > 3, "each batch has draws of its own"


@pytest.mark.parametrize(
    ("strategy", "mean"), [("uniform", 10.0), ("biased_early", 6.508), ("biased_late", 13.492)]
)
def test_offsets_follow_the_strategy(strategy: str, mean: float) -> None:
    offsets = draw_offsets(
        settings(max_step_offset=20, prob_end=1.0, strategy=strategy),
        0,
        20_000,
        torch.Generator().manual_seed(0),
    )
    assert (offsets.min(), offsets.max()) == (0, 20)
    assert offsets.float().mean().item() == pytest.approx(mean, abs=0.15)
    half = draw_offsets(
        settings(max_step_offset=20, strategy=strategy), 0, 20_000, torch.Generator().manual_seed(0)
    )
    assert half.float().mean().item() == pytest.approx(mean / 2, abs=0.2)
    assert (half[half > 0] == offsets[half > 0]).all()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [0.5, 0.5, 0.5, 0.5, 0.5]),
        ({"start_step": 20}, [0.0, 0.0, 0.5, 0.5, 0.5]),
        ({"ramp_steps": 20, "start_step": 10}, [0.0, 0.0, 0.25, 0.5, 0.5]),
        ({"ramp_steps": 40, "prob_start": 1.0, "prob_end": 0.2}, [1.0, 0.8, 0.6, 0.4, 0.2]),
        ({"ramp_steps": 40, "prob_end": 1.0, "ramp_shape": "cosine"}, [0.0, 0.146447, 0.5, 0.853553, 1.0]),
    ],
)
def test_the_share_follows_the_ramp(changes: Values, expected: list[float]) -> None:
    ramp = settings(max_step_offset=5, **changes)
    assert [ramp.probability(step) for step in (0, 10, 20, 30, 40)] == pytest.approx(expected, abs=1e-6)


def rolled_by(error: float) -> tuple[NoisedBatch, Rollout]:
    exact = noised()
    return exact, Rollout(integrate(Watched(exact, error), exact, OFFSETS, 4), exact, OFFSETS)


def test_reflexflow_is_its_formula() -> None:
    exact = noised().video
    draw = torch.Generator().manual_seed(5)
    bias = 0.1 * torch.randn(exact.tokens.shape, generator=draw)
    mask = torch.tensor([[1, 1, 0, 0, 1, 1.0]]).repeat(3, 1)
    rolled = replace(exact, tokens=exact.tokens - bias, mask=mask)
    prediction = torch.randn(exact.tokens.shape, generator=draw)
    weights = settings(max_step_offset=4, reflexflow_alpha=0.7, reflexflow_beta1=3.0, reflexflow_beta2=2.0)
    compensation, anti_drift = reflexflow(prediction, rolled, exact, weights)
    found = compensation + 3.0 * anti_drift
    for row in range(3):
        inside = mask[row].bool()
        b, error = bias[row, inside].abs(), (prediction - exact.target)[row, inside].square()
        compensated = 2.0 * ((1 + 0.7 * b / b.mean()) * error).mean()
        clip = exact.tokens[row] - exact.sigma[row] * exact.target[row]
        a, d = prediction[row, inside].flatten(), (rolled.tokens[row] - clip)[inside].flatten()
        drift = 2 - 2 * torch.dot(a, d) / (a.norm() * d.norm())
        plain = masked_loss(prediction, rolled)[row]
        assert_alike(plain + found[row], compensated + 3.0 * drift, 8 * prediction[row].numel())


def test_anti_drift_is_least_where_the_prediction_leads_to_the_clip() -> None:
    exact, rollout = rolled_by(error=30.0)
    only_drift = settings(max_step_offset=4, reflexflow_alpha=0.0)
    clip = exact.video.tokens - exact.video.sigma[:, None, None] * exact.video.target
    homeward = (rollout.noised.video.tokens - clip) / exact.video.sigma[:, None, None]
    home, plain = (
        sum(reflexflow(prediction, rollout.noised.video, exact.video, only_drift))
        for prediction in (homeward, exact.video.target)
    )
    # 2 - 2 * cos, of a cosine of 1.
    assert home[0].item() == pytest.approx(0, abs=bound(4 * clip[0].numel(), 2.0))
    assert plain[0] > home[0] + 1e-3


def test_only_rolled_samples_have_a_loss_of_their_own() -> None:
    exact, rollout = rolled_by(error=0.5)
    velocities = tuple(t.detach().requires_grad_() for t in Watched(exact, 0.2)(exact) if t is not None)
    plain = losses(velocities[0], velocities[1], rollout.noised)
    off = rollout.losses(plain, velocities, settings(max_step_offset=4, reflexflow=False))  # type: ignore[arg-type]
    assert torch.equal(off.total, plain.total)
    assert dict(off.measures) == {**plain.measures, "rolled_samples": torch.tensor(2.0)}
    found = rollout.losses(plain, velocities, settings(max_step_offset=4))  # type: ignore[arg-type]
    assert found.video is plain.video
    assert found.audio is plain.audio
    assert found.weights == {
        "video_loss": 1.0,
        "audio_loss": 1.0,
        "reflexflow_compensation": 1.0,
        "reflexflow_drift": 10.0,
    }
    gradients = torch.autograd.grad(found.total - plain.total, velocities)
    for gradient in gradients:
        assert torch.isfinite(gradient).all()
        assert gradient[0].any()
        assert not gradient[1].any(), "sample 1 was not rolled"


def test_a_sample_that_is_masked_altogether_adds_nothing() -> None:
    exact, rollout = rolled_by(error=0.5)
    silent = replace(rollout.noised.video, mask=torch.zeros(3, 6))
    prediction = torch.randn(3, 6, 5, requires_grad=True)
    found = torch.stack(reflexflow(prediction, silent, exact.video, settings(max_step_offset=4)))
    assert not found.any()
    found.sum().backward()
    assert prediction.grad is not None
    assert not prediction.grad.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_step_offset": 1000}, "less than 1000"),
        ({"max_step_offset": -1}, "greater than or equal to 0"),
        ({"prob_end": 1.5}, "less than or equal to 1"),
        ({"strategy": "late"}, "'uniform', 'biased_early' or 'biased_late'"),
        ({"ramp_shape": "square"}, "'linear' or 'cosine'"),
        ({"reflexflow_beta1": -1}, "greater than or equal to 0"),
    ],
)
def test_bad_input_is_refused(changes: Values, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**changes)
