"""The recipe: what to train, how, within which memory, and what to render. The defaults are the tiny job.

Names are the seed's own keys, grouped. A recipe file says only what differs from the defaults.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from ltxcore.config.base import Strict, parse, read_document

TINY_MODEL = "tiny"
Precision = Literal["bf16", "no"]


class ModelSettings(Strict):
    """Which weights."""

    model_family: Literal["ltxvideo2"] = "ltxvideo2"
    pretrained_model_name_or_path: str = Field(
        TINY_MODEL,
        min_length=1,
        description="A directory in the diffusers layout, a hub id, or `tiny`, a random LTX-2.",
    )
    revision: str | None = Field(None, description="A hub revision, where the model is a hub id.")
    text_encoder: str | None = Field(
        None, description="Gemma 3, as a directory or hub id, where it is not part of the model directory."
    )
    text_encoder_loading: Literal["auto", "resident", "layer_by_layer"] = Field(
        "auto",
        description="Gemma whole in memory, or one layer at a time; auto: whole where that fits the budget.",
    )


class EncodeSettings(Strict):
    """How clips become latents. The dtype, and tiles where they change a value, are part of their keys."""

    vae_dtype: Literal["bf16", "fp32"] = Field("bf16", description="Arithmetic of the VAE encoders.")
    vae_batch_size: PositiveInt = Field(1, description="Clips of one bucket through the VAE at once.")
    vae_enable_slicing: bool = Field(False, description="The clips of a batch one after another.")
    vae_enable_patch_conv: bool = Field(
        False, description="Encode 16 frames at a time; the result is that of the whole clip."
    )
    vae_enable_temporal_roll: bool = Field(
        False, description="Encode 8 frames at a time; the result is that of the whole clip."
    )
    vae_enable_tiling: bool = Field(
        False, description="Encode and decode in tiles of 512 pixels, blended where they overlap."
    )
    batch_clips: int = Field(64, ge=1, le=256, description="Clips committed together, and lost together.")


class LoraSettings(Strict):
    """The adapter."""

    lora_rank: PositiveInt = 16
    lora_alpha: float | None = Field(None, gt=0, description="Default: the rank.")
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    lora_targets: tuple[str, ...] | None = Field(
        None,
        description="Module suffixes. Default: the attentions, and audio modules where there is sound.",
    )

    @property
    def alpha(self) -> float:
        return float(self.lora_rank) if self.lora_alpha is None else self.lora_alpha


class TrainingSettings(Strict):
    """The optimisation."""

    seed: int = Field(42, ge=0, lt=2**63)
    max_train_steps: PositiveInt = 60
    train_batch_size: PositiveInt = 1
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

    @model_validator(mode="after")
    def _warmup_fits(self) -> TrainingSettings:
        if self.lr_warmup_steps >= self.max_train_steps and self.lr_warmup_steps > 0:
            raise ValueError(
                f"lr_warmup_steps {self.lr_warmup_steps} leaves no step after the warm-up: "
                f"max_train_steps is {self.max_train_steps}"
            )
        return self


class ValidationSettings(Strict):
    """What is rendered after training, from the base and from the LoRA."""

    validation_disable: bool = False
    validation_prompts: dict[str, str] = Field(
        default_factory=dict, description="Short name -> prompt. Empty: the first captions of the dataset."
    )
    validation_negative_prompt: str = "worst quality, inconsistent motion, blurry, jittery, distorted"
    validation_guidance: float = Field(5.0, ge=1)
    validation_num_inference_steps: PositiveInt = 40
    validation_num_video_frames: PositiveInt = 49
    validation_resolution: str = Field("768x512", pattern=r"^\d+x\d+$", description="Width x height.")
    validation_frame_rate: float = Field(25.0, gt=0)
    validation_seed: int = Field(42, ge=0, lt=2**63)

    @field_validator("validation_prompts")
    @classmethod
    def _slugs(cls, prompts: dict[str, str]) -> dict[str, str]:
        for name, prompt in prompts.items():
            if not name or not all(c.isalnum() or c in "-_" for c in name):
                raise ValueError(f"the short name {name!r} may hold letters, digits, - and _ only")
            if not prompt.strip():
                raise ValueError(f"the prompt of {name!r} is empty")
        return prompts


class MemorySettings(Strict):
    """The machine's memory that a stage may use. Left out: what the machine has."""

    vram_gib: float | None = Field(None, gt=0)
    ram_gib: float | None = Field(None, gt=0)


class TrackingSettings(Strict):
    """Where MLflow records the run."""

    mlflow_tracking_uri: str | None = Field(
        None,
        description="Default: SQLite in the workspace. A user name or password belongs in the environment.",
    )
    tracker_project_name: str = Field("ltx2", min_length=1, description="The MLflow experiment.")
    tracker_run_name: str | None = Field(None, description="The MLflow run. Default: the training's id.")

    @field_validator("mlflow_tracking_uri")
    @classmethod
    def _no_secret(cls, uri: str | None) -> str | None:
        if uri is not None and "@" in uri.split("://", 1)[-1].split("/", 1)[0]:
            raise ValueError(
                "holds a user name or password; give them as MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD in the environment"
            )
        return uri


class Recipe(Strict):
    """Everything about a training but its data."""

    model: ModelSettings = Field(default_factory=ModelSettings)
    encode: EncodeSettings = Field(default_factory=EncodeSettings)
    lora: LoraSettings = Field(default_factory=LoraSettings)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    validation: ValidationSettings = Field(default_factory=ValidationSettings)
    memory: MemorySettings = Field(default_factory=MemorySettings)
    tracking: TrackingSettings = Field(default_factory=TrackingSettings)


def load_recipe(path: Path) -> Recipe:
    """Read a recipe file.

    Raises:
        ConfigError: with file, line, key and what to write instead.
    """
    data, lines = read_document(path)
    recipe: Recipe = parse(Recipe, {} if data is None else data, str(path), lines)
    return recipe
