"""Noise levels: the reference's shifted logit-normal sampler."""

from __future__ import annotations

import math

import torch

STD = 1.0
EPS = 1e-3
UNIFORM_SHARE = 0.1
UPPER_Z, LOWER_Z = 3.0902, 2.5758
"""The standard normal's 99.9 % and 99.5 % points, between which the draws are stretched over [0, 1]."""
FEWEST_TOKENS, FEWEST_MU = 1024, 0.95
MOST_TOKENS, MOST_MU = 4096, 2.05
CLAMP_TOKENS = 4096 * 8
"""Above, mu grows until both quantiles are 1 in float32 and the stretch divides by zero."""


def shift_mu(tokens: int) -> float:
    """The mean of the logit: linear in the number of latent tokens, 0.95 at 1024 and 2.05 at 4096."""
    slope = (MOST_MU - FEWEST_MU) / (MOST_TOKENS - FEWEST_TOKENS)
    return FEWEST_MU + (min(tokens, CLAMP_TOKENS) - FEWEST_TOKENS) * slope


def shifted_logit_normal(tokens: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw noise levels sigma in [0, 1].

    A draw of sigmoid(N(mu(tokens), STD)) is stretched so that its 0.5 % and 99.9 % points become 0 and 1;
    what falls below EPS is reflected, and a tenth of all draws is uniform instead (LTX-2 reference).

    Args:
        tokens: latent tokens of one sample of the modality.
        count: how many levels.
        generator: a CPU generator.

    Returns:
        float32 [count].
    """
    mu = shift_mu(tokens)
    normal = torch.randn(count, generator=generator, dtype=torch.float64)
    uniform = torch.rand(count, generator=generator, dtype=torch.float64)
    is_uniform = torch.rand(count, generator=generator) < UNIFORM_SHARE

    low, high = _sigmoid(mu - LOWER_Z * STD), _sigmoid(mu + UPPER_Z * STD)
    stretched = (torch.sigmoid(STD * normal + mu) - low) / (high - low)
    reflected = torch.where(stretched < EPS, 2 * EPS - stretched, stretched).clamp(0, 1)
    return torch.where(is_uniform, EPS + (1 - EPS) * uniform, reflected).float()


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))
