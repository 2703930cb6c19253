"""The sampler of noise levels against the figures measured on the reference."""

from __future__ import annotations

import pytest
import torch

from ltxcore.training.timesteps import EPS, shifted_logit_normal


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
