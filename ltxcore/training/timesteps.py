"""Noise levels: Lightricks' shifted logit-normal sampler, and SimpleTuner's schedules."""

from __future__ import annotations

import math

import numpy as np
import torch

from ltxcore.config.flow_settings import FlowSettings

STD = 1.0
EPS = 1e-3
UNIFORM_SHARE = 0.1
UPPER_Z, LOWER_Z = 3.0902, 2.5758
"""The standard normal's 99.9 % and 99.5 % points, between which the draws are stretched over [0, 1]."""
FEWEST_TOKENS, FEWEST_MU = 1024, 0.95
MOST_TOKENS, MOST_MU = 4096, 2.05
CLAMP_TOKENS = 4096 * 8
"""Above, mu grows until both quantiles are 1 in float32 and the stretch divides by zero."""


def sample_sigmas(
    settings: FlowSettings, tokens: int, count: int, generator: torch.Generator
) -> torch.Tensor:
    """Draw noise levels by the schedule that the recipe names.

    `logit_normal` is sigmoid(N(0, 1)), `uniform` U(0, 1) and `beta` Beta(alpha, beta); each is then shifted
    by s: s * sigma / (1 + (s - 1) * sigma). With flow_schedule_auto_shift s is exp(mu(tokens)), the shift of
    the scheduler that LTX-2 is sampled with. `shifted_logit_normal` has its own shift.

    Args:
        settings: the schedule and its parameters.
        tokens: latent tokens of one sample of the modality.
        count: how many levels.
        generator: a CPU generator.

    Returns:
        float32 [count] in [0, 1].
    """
    if settings.flow_schedule == "shifted_logit_normal":
        return shifted_logit_normal(tokens, count, generator)
    if settings.flow_schedule == "logit_normal":
        plain = torch.sigmoid(torch.randn(count, generator=generator, dtype=torch.float64))
    elif settings.flow_schedule == "uniform":
        plain = torch.rand(count, generator=generator, dtype=torch.float64)
    else:
        plain = _beta(*settings.beta, count, generator)
    shift = math.exp(shift_mu(tokens)) if settings.flow_schedule_auto_shift else settings.shift
    return shifted(plain, shift).float()


def shifted(sigmas: torch.Tensor, shift: float) -> torch.Tensor:
    """s * sigma / (1 + (s - 1) * sigma) of sigmas [B]: more noise for s above 1; 0 and 1 stay in place."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def _beta(alpha: float, beta: float, count: int, generator: torch.Generator) -> torch.Tensor:
    """Draws of Beta(alpha, beta), float64 [count].

    numpy draws them: torch's own distribution knows only the global generator.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.from_numpy(np.random.default_rng(seed).beta(alpha, beta, count))


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
