"""Scheduled sampling: some samples start from the model's own output for more noise."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, NonNegativeInt

from ltxcore.config.base import Strict

STEPS = 1000
"""Noise levels from 0 to 1 are counted in this many steps."""
Strategy = Literal["uniform", "biased_early", "biased_late"]
RampShape = Literal["linear", "cosine"]


class ScheduledSamplingSettings(Strict):
    """Rollouts before the training step, and ReflexFlow's loss on their results."""

    scheduled_sampling_max_step_offset: int = Field(
        0,
        ge=0,
        lt=STEPS,
        description=f"The longest rollout, in steps of 1/{STEPS}: as many forward passes more. 0: off.",
    )
    scheduled_sampling_strategy: Strategy = Field(
        "uniform",
        description="Lengths of rollouts: uniform, more often short (early) or more often long (late).",
    )
    scheduled_sampling_prob_start: float = Field(
        0.0, ge=0, le=1, description="The share of samples that are rolled out before the ramp."
    )
    scheduled_sampling_prob_end: float = Field(0.5, ge=0, le=1, description="The share after the ramp.")
    scheduled_sampling_ramp_steps: NonNegativeInt = Field(
        0, description="Optimizer steps from the one share to the other. 0: at once."
    )
    scheduled_sampling_start_step: NonNegativeInt = Field(0, description="The first step of the ramp.")
    scheduled_sampling_ramp_shape: RampShape = Field(
        "linear", description="How the share changes over the ramp."
    )
    scheduled_sampling_reflexflow: bool = Field(
        True, description="ReflexFlow's loss on the samples that were rolled out."
    )
    scheduled_sampling_reflexflow_alpha: float = Field(
        1.0, ge=0, description="How much more the loss counts where the rollout deviates."
    )
    scheduled_sampling_reflexflow_beta1: float = Field(
        10.0, ge=0, description="Weight of the anti-drift term, on the velocity's direction."
    )
    scheduled_sampling_reflexflow_beta2: float = Field(
        1.0, ge=0, description="Weight of the weighted flow-matching loss."
    )

    @property
    def enabled(self) -> bool:
        """Whether any sample is ever rolled out."""
        shares = self.scheduled_sampling_prob_start, self.scheduled_sampling_prob_end
        return self.scheduled_sampling_max_step_offset > 0 and max(shares) > 0

    def probability(self, step: int) -> float:
        """The share of samples that are rolled out in an optimizer step (counted from 0)."""
        done = step - self.scheduled_sampling_start_step
        ramp = self.scheduled_sampling_ramp_steps
        share = min(max(done / ramp, 0.0), 1.0) if ramp else float(done >= 0)
        if self.scheduled_sampling_ramp_shape == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        start, end = self.scheduled_sampling_prob_start, self.scheduled_sampling_prob_end
        return start + (end - start) * share
