"""The optimisation: how long, how fast, and what is saved."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from ltxcore.config.base import Strict
from ltxcore.config.batch_size import BatchSize

Precision = Literal["bf16", "no"]


class TrainingSettings(Strict):
    """The optimisation."""

    seed: int = Field(42, ge=0, lt=2**63)
    max_train_steps: int = Field(60, ge=0, description="0 where num_train_epochs says how long.")
    num_train_epochs: int = Field(
        0, ge=0, description="Passes over the data; 0: max_train_steps says how long."
    )
    train_batch_size: BatchSize = Field(
        1,
        description="Clips a step: a number, a number for each bucket as `{WxH@F: n}`, or auto, the largest "
        "that fits memory.vram_gib and memory.ram_gib.",
    )
    gradient_accumulation_steps: PositiveInt = 1
    learning_rate: float = Field(6e-5, gt=0)
    lr_scheduler: Literal["constant_with_warmup", "constant", "linear", "cosine"] = "constant_with_warmup"
    lr_warmup_steps: int = Field(0, ge=0)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    adam_epsilon: float = Field(1e-8, gt=0)
    adam_weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float = Field(1.0, gt=0, description="The norm of all gradients together.")
    mixed_precision: Precision = "bf16"
    gradient_checkpointing: bool = True
    caption_dropout_probability: float = Field(0.1, ge=0, le=1)
    ltx2_first_frame_conditioning_probability: float = Field(0.0, ge=0, le=1)
    sigma_sampling: Literal["independent", "shared"] = Field(
        "independent", description="Whether video and sound draw their noise levels apart or together."
    )
    checkpoint_step_interval: PositiveInt = 500
    checkpoints_total_limit: PositiveInt = 5

    @model_validator(mode="before")
    @classmethod
    def _epochs_replace_steps(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("num_train_epochs") and "max_train_steps" not in data:
            return {**data, "max_train_steps": 0}
        return data

    @model_validator(mode="after")
    def _one_length(self) -> TrainingSettings:
        if bool(self.max_train_steps) == bool(self.num_train_epochs):
            both = f"max_train_steps {self.max_train_steps} and num_train_epochs {self.num_train_epochs}"
            raise ValueError(f"{both} do not say how long to train; set one of them and leave the other 0")
        return self

    @model_validator(mode="after")
    def _warmup_fits(self) -> TrainingSettings:
        if self.lr_warmup_steps >= self.max_train_steps > 0 and self.lr_warmup_steps > 0:
            raise ValueError(
                f"lr_warmup_steps {self.lr_warmup_steps} leaves no step after the warm-up: "
                f"max_train_steps is {self.max_train_steps}"
            )
        return self
