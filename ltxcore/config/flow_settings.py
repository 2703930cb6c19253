"""How noise levels are drawn: Lightricks' sampler, or one of SimpleTuner's schedules."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ltxcore.config.base import Strict

FlowSchedule = Literal["shifted_logit_normal", "logit_normal", "uniform", "beta"]
DEFAULT_SHIFT = 3.0
DEFAULT_BETA = (2.0, 2.0)


class FlowSettings(Strict):
    """Which noise levels the training sees, and how often."""

    flow_schedule: FlowSchedule = Field(
        "shifted_logit_normal",
        description=(
            "shifted_logit_normal: as in Lightricks' trainer. logit_normal, uniform and beta: "
            "this distribution, then shifted."
        ),
    )
    flow_schedule_shift: float | None = Field(
        None,
        gt=0,
        le=100,
        description="s in s * sigma / (1 + (s - 1) * sigma), of every schedule but the reference's; 1 shifts "
        f"nothing. Default: {DEFAULT_SHIFT:g}.",
    )
    flow_schedule_auto_shift: bool = Field(
        False, description="Derive s from the number of tokens, as the model's own sampler does."
    )
    flow_beta_schedule_alpha: float | None = Field(
        None, gt=0, le=100, description=f"Of the schedule beta. Default: {DEFAULT_BETA[0]:g}."
    )
    flow_beta_schedule_beta: float | None = Field(
        None, gt=0, le=100, description=f"Of the schedule beta. Default: {DEFAULT_BETA[1]:g}."
    )
    sigma_sampling: Literal["independent", "shared"] = Field(
        "independent", description="Whether video and sound draw their noise levels separately or together."
    )

    @property
    def shift(self) -> float:
        """The shift s of a schedule that has a fixed one."""
        return DEFAULT_SHIFT if self.flow_schedule_shift is None else self.flow_schedule_shift

    @property
    def beta(self) -> tuple[float, float]:
        """Alpha and beta of the schedule beta."""
        alpha, beta = self.flow_beta_schedule_alpha, self.flow_beta_schedule_beta
        return (
            DEFAULT_BETA[0] if alpha is None else alpha,
            DEFAULT_BETA[1] if beta is None else beta,
        )

    @model_validator(mode="after")
    def _schedule_agrees(self) -> FlowSettings:
        if self.flow_schedule_shift is not None and self.flow_schedule_auto_shift:
            raise ValueError(
                f"flow_schedule_shift {self.flow_schedule_shift:g} and flow_schedule_auto_shift both say how "
                "far to shift; keep one of them"
            )
        if self.flow_schedule == "shifted_logit_normal":
            for key in ("flow_schedule_shift", "flow_schedule_auto_shift"):
                if getattr(self, key):
                    raise ValueError(
                        f"{key} has no meaning with flow_schedule shifted_logit_normal, which shifts by the "
                        "number of tokens; leave it out, or write e.g. flow_schedule: logit_normal"
                    )
        for key in ("flow_beta_schedule_alpha", "flow_beta_schedule_beta"):
            if getattr(self, key) is not None and self.flow_schedule != "beta":
                raise ValueError(
                    f"{key} belongs to flow_schedule beta, but flow_schedule is {self.flow_schedule}; "
                    "leave it out, or write flow_schedule: beta"
                )
        return self
