"""How weights are changed from step to step: optimizer, clipping, schedule, averages, compilation."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field, PositiveInt, model_validator

from ltxcore.config.base import Strict

Schedule = Literal[
    "constant_with_warmup", "constant", "linear", "sine", "cosine", "cosine_with_restarts", "polynomial"
]
DYNAMO: Final = frozenset({"dynamo_mode", "dynamo_backend"})
ENDLESS: Final = ("constant", "constant_with_warmup")
"""Schedules that do not look at the last step, so that a training can be made longer."""


class OptimizerSettings(Strict):
    """Part of the recipe's `training` section."""

    optimizer: Literal["adamw", "adamw_bf16", "adamw8bit", "prodigy"] = Field(
        "adamw",
        description="adamw_bf16: weights and moments in bf16, rounded stochastically. adamw8bit and prodigy "
        "need the extras bitsandbytes and prodigy.",
    )
    learning_rate: float = Field(
        6e-5, gt=0, description="The learning rate. Write 1.0 for prodigy, which finds the rate itself."
    )
    lr_scheduler: Schedule = Field(
        "constant_with_warmup", description="How the learning rate changes over the steps."
    )
    lr_warmup_steps: int = Field(0, ge=0, description="Steps in which the rate rises from 0.")
    lr_num_cycles: PositiveInt = Field(1, description="Number of waves of cosine_with_restarts and sine.")
    lr_power: float = Field(1.0, gt=0, description="Power of polynomial.")
    lr_end: float = Field(0.0, ge=0, description="The lowest rate of polynomial and sine.")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the mean gradient.")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="Decay of the mean squared gradient.")
    adam_epsilon: float = Field(1e-8, gt=0, description="Added to the divisor, against division by zero.")
    adam_weight_decay: float = Field(0.01, ge=0, description="Weight decay, decoupled as in AdamW.")
    max_grad_norm: float = Field(1.0, gt=0, description="The largest norm of all gradients together.")
    grad_clip_method: Literal["norm", "value"] = Field(
        "norm",
        description="norm: scale all gradients together. value: clip each gradient at ± max_grad_norm.",
    )
    use_ema: bool = Field(False, description="Keep a moving average of the trained weights.")
    ema_decay: float = Field(0.995, gt=0, lt=1, description="Share of the average that an update keeps.")
    ema_update_interval: PositiveInt = Field(1, description="Steps between updates of the average.")
    ema_export: Literal["beside", "instead"] = Field(
        "beside", description="Write the average to separate files (…_ema), or as the LoRA itself."
    )
    ema_validation: Literal["none", "ema_only", "comparison"] = Field(
        "none",
        description=(
            "What validation renders. none: the exported LoRA. ema_only: the average of the "
            "weights. comparison: the last weights and their average, side by side."
        ),
    )
    epoch_order: Literal["shuffled", "by_bucket"] = Field(
        "shuffled",
        description="by_bucket: visit one bucket after another, so that compiled shapes change rarely.",
    )
    torch_compile: bool = Field(
        False,
        description="Compile the transformer's blocks, once for each bucket. On where dynamo_mode or "
        "dynamo_backend is given.",
    )
    dynamo_backend: Literal["inductor", "aot_eager", "eager"] = Field(
        "inductor", description="torch.compile's backend."
    )
    dynamo_mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = Field(
        "default", description="torch.compile's mode."
    )

    @model_validator(mode="before")
    @classmethod
    def _dynamo_compiles(cls, data: Any) -> Any:
        if isinstance(data, dict) and "torch_compile" not in data and data.keys() & DYNAMO:
            return {**data, "torch_compile": True}
        return data

    @model_validator(mode="after")
    def _dynamo_is_on(self) -> OptimizerSettings:
        fields = type(self).model_fields
        given = sorted(key for key in DYNAMO if getattr(self, key) != fields[key].default)
        if given and not self.torch_compile:
            raise ValueError(f"{given[0]} is given, but torch_compile is false; remove one of them")
        return self

    @model_validator(mode="after")
    def _lowest_rate(self) -> OptimizerSettings:
        if self.lr_end >= self.learning_rate:
            raise ValueError(
                f"lr_end {self.lr_end:g} is not below learning_rate {self.learning_rate:g}, so the rate "
                "would not fall"
            )
        return self

    @property
    def exports_ema(self) -> bool:
        """Whether the LoRA is the average of the weights."""
        return self.use_ema and self.ema_export == "instead"

    @model_validator(mode="after")
    def _average_is_there(self) -> OptimizerSettings:
        if self.use_ema:
            return self
        for key, default in (("ema_export", "beside"), ("ema_validation", "none")):
            if getattr(self, key) != default:
                raise ValueError(f"{key} is {getattr(self, key)}, but use_ema is false: write use_ema: true")
        return self
