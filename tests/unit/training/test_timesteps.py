"""The samplers of noise levels: the reference's against measured figures, the others against their means."""

from __future__ import annotations

import math

import pytest
import torch

from ltxcore.config.base import parse
from ltxcore.config.errors import ConfigError
from ltxcore.config.flow_settings import FlowSettings
from ltxcore.training.timesteps import EPS, sample_sigmas, shift_mu, shifted, shifted_logit_normal


def draw(tokens: int, count: int = 400_000) -> torch.Tensor:
    return shifted_logit_normal(tokens, count, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("tokens", "mean"), [(126, 0.581), (1024, 0.626), (4096, 0.743), (6120, 0.788)])
def test_means_are_the_references(tokens: int, mean: float) -> None:
    assert draw(tokens).mean().item() == pytest.approx(mean, abs=1.5e-3)


@pytest.mark.parametrize("tokens", [1, 126, 14_080, 60_000, 10_000_000])
def test_levels_are_finite_and_inside_the_unit_interval(tokens: int) -> None:
    sigmas = draw(tokens)
    assert torch.isfinite(sigmas).all()
    assert sigmas.min() >= 0
    assert sigmas.max() <= 1


def test_low_draws_are_reflected_and_do_not_pile_up() -> None:
    sigmas = draw(126)
    assert (sigmas < EPS).float().mean() < 1e-4
    assert (sigmas == EPS).float().mean() < 1e-4


def test_a_seed_gives_the_same_levels_again() -> None:
    assert torch.equal(draw(1024, 8), draw(1024, 8))


def drawn(tokens: int = 1024, count: int = 400_000, **settings: object) -> torch.Tensor:
    chosen = FlowSettings(**settings)  # type: ignore[arg-type]
    return sample_sigmas(chosen, tokens, count, torch.Generator().manual_seed(0))


def mean_of(density: str, shift: float) -> float:
    """The mean of a shifted schedule, by quadrature of its quantile function."""
    at = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    quantiles = {
        "logit_normal": torch.sigmoid(torch.special.ndtri(at)),
        "uniform": at,
        # Beta(1, 2) has the distribution function 1 - (1 - x)^2.
        "beta": 1 - (1 - at).sqrt(),
    }[density]
    return (shift * quantiles / (1 + (shift - 1) * quantiles)).mean().item()


@pytest.mark.parametrize("schedule", ["logit_normal", "uniform", "beta"])
@pytest.mark.parametrize("shift", [None, 1.0, 5.0])
def test_schedules_have_the_means_of_their_formulas(schedule: str, shift: float | None) -> None:
    shape = {"flow_beta_schedule_alpha": 1.0, "flow_beta_schedule_beta": 2.0} if schedule == "beta" else {}
    sigmas = drawn(flow_schedule=schedule, flow_schedule_shift=shift, **shape)
    expected = mean_of(schedule, 3.0 if shift is None else shift)
    assert sigmas.mean().item() == pytest.approx(expected, abs=2e-3)
    assert 0 <= sigmas.min() < sigmas.max() <= 1
    assert sigmas.dtype == torch.float32


def test_known_means() -> None:
    assert drawn(flow_schedule="uniform", flow_schedule_shift=1).mean().item() == pytest.approx(0.5, abs=2e-3)
    assert drawn(flow_schedule="beta", flow_schedule_shift=1).mean().item() == pytest.approx(0.5, abs=2e-3)
    # The seed's own: sigmoid(N(0, 1)) shifted by 3; the median of sigmoid(N) is a half, shifted 3/4.
    assert drawn(flow_schedule="logit_normal").median().item() == pytest.approx(0.75, abs=3e-3)


def test_the_shift_keeps_the_ends_and_raises_what_is_between() -> None:
    ends = torch.tensor([0.0, 1.0])
    assert torch.equal(shifted(ends, 3.0), ends)
    assert shifted(torch.tensor(0.5), 3.0).item() == pytest.approx(0.75)


@pytest.mark.parametrize("tokens", [126, 1024, 4096])
def test_the_automatic_shift_follows_the_tokens(tokens: int) -> None:
    sigmas = drawn(tokens, flow_schedule="logit_normal", flow_schedule_auto_shift=True)
    assert sigmas.mean().item() == pytest.approx(
        mean_of("logit_normal", math.exp(shift_mu(tokens))), abs=2e-3
    )


@pytest.mark.parametrize("schedule", ["logit_normal", "uniform", "beta", "shifted_logit_normal"])
def test_every_schedule_draws_from_its_generator_alone(schedule: str) -> None:
    first, again = (drawn(count=16, flow_schedule=schedule) for _ in range(2))
    assert torch.equal(first, again)
    other = sample_sigmas(FlowSettings(flow_schedule=schedule), 1024, 16, torch.Generator().manual_seed(1))
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"flow_schedule_shift": 3.0}, "flow_schedule_shift"),
        ({"flow_schedule_auto_shift": True}, "flow_schedule_auto_shift"),
        (
            {"flow_schedule": "uniform", "flow_schedule_shift": 3.0, "flow_schedule_auto_shift": True},
            "flow_schedule_auto_shift",
        ),
        ({"flow_schedule": "uniform", "flow_beta_schedule_alpha": 2.0}, "flow_beta_schedule_alpha"),
        ({"flow_schedule": "beta", "flow_beta_schedule_beta": 0.0}, "flow_beta_schedule_beta"),
        ({"flow_schedule": "logit_normal", "flow_schedule_shift": -1.0}, "flow_schedule_shift"),
        ({"flow_schedule": "cosine"}, "flow_schedule"),
    ],
)
def test_contradictory_keys_are_refused_by_name(keys: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse(FlowSettings, keys, "recipe")
