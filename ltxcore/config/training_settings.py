"""The optimisation: how long, how fast, and what is saved."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from ltxcore.config.batch_size import BatchSize
from ltxcore.config.flow_settings import FlowSettings
from ltxcore.config.optimizer_settings import OptimizerSettings
from ltxcore.config.seeds import OPEN

Precision = Literal["auto", "bf16", "no"]


class TrainingSettings(OptimizerSettings, FlowSettings):
    """The optimisation: its length, its data, its noise, its optimizer and what is saved."""

    seed: int = Field(
        42,
        ge=OPEN,
        lt=2**63,
        description=(
            "The seed of every random draw; 0 is a seed like any other. -1: drawn once for each "
            "run and kept with it."
        ),
    )
    max_train_steps: int = Field(
        60, ge=0, description="Number of steps; 0 if num_train_epochs gives the length."
    )
    num_train_epochs: int = Field(
        0, ge=0, description="Passes over the data; 0 if max_train_steps gives the length."
    )
    train_batch_size: BatchSize = Field(
        1,
        description="Clips a step: a number, a number for each bucket as `{WxH@F: n}`, or auto, the largest "
        "that fits memory.vram_gib and memory.ram_gib.",
    )
    allow_small_buckets: bool = Field(
        False, description="Train buckets with fewer visits an epoch than a batch holds, in smaller batches."
    )
    gradient_accumulation_steps: PositiveInt = Field(1, description="Batches of an optimizer step.")
    mixed_precision: Precision = Field(
        "auto", description="no: everything in float32; auto: bf16 on a GPU, no on a CPU."
    )
    gradient_checkpointing: bool = Field(
        True,
        description="Compute a block's activations again instead of keeping them: less memory, slower.",
    )
    caption_dropout_probability: float = Field(
        0.1, ge=0, le=1, description="Share of visits with the empty caption."
    )
    ltx2_first_frame_conditioning_probability: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of visits with the first frame given; the same as a condition first_frame.",
    )
    loss_mask_probability: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of visits at which a clip's loss mask (conditioning_type loss_mask) weighs the "
        "pictures' loss.",
    )
    checkpoint_step_interval: PositiveInt = Field(500, description="Steps between checkpoints.")
    checkpoints_total_limit: PositiveInt = Field(
        5, description="Number of checkpoints to keep; older ones are deleted."
    )
    resume_from_checkpoint: str = Field(
        "latest",
        min_length=1,
        description="latest; none: from the start; or a checkpoint-<step>, of this training or with its path "
        "of another one.",
    )

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
