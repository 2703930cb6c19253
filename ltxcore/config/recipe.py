"""The recipe: what to train, how, within which memory, and what to render. The defaults are the tiny job.

Names are the seed's own keys, grouped. A recipe file says only what differs from the defaults.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from ltxcore.config.base import Strict, parse, read_document
from ltxcore.config.data_defaults import DataDefaults
from ltxcore.config.simpletuner_training import is_flat, translate_config

TINY_MODEL = "tiny"
TOY_MODEL = "toy"
Precision = Literal["bf16", "no"]
Flavour = Literal["dev", "dev-fp8", "dev-fp4", "2.3-dev", "2.3-distilled"]
Strategy = Literal["auto", "resident", "block_streaming", "group_offload", "ramtorch"]
WeightPrecision = Literal[
    "no_change",
    "int8-quanto",
    "int4-quanto",
    "int2-quanto",
    "fp8-quanto",
    "int8-torchao",
    "fp8-torchao",
    "nf4-bnb",
]


class ModelSettings(Strict):
    """Which weights."""

    model_family: Literal["ltxvideo2"] = "ltxvideo2"
    pretrained_model_name_or_path: str = Field(
        TINY_MODEL,
        min_length=1,
        description="A combined .safetensors, a directory that holds it or is in the diffusers layout, "
        "a hub id, `toy`, a small LTX-2 that draws moving shapes, or `tiny`, a random one.",
    )
    model_flavour: Flavour | None = Field(
        None,
        description="Which combined checkpoint of a directory or hub repo; what is found must agree. "
        "Default: the only one that is there, the diffusers layout, or dev.",
    )
    revision: str | None = Field(None, description="A hub revision, where the model is a hub id.")
    text_encoder: str | None = Field(
        None, description="Gemma 3, as a directory or hub id, where it is not part of the model directory."
    )
    base_model_precision: WeightPrecision = Field(
        "no_change", description="How the transformer's linears are held, quantised as they are read."
    )
    text_encoder_1_precision: WeightPrecision = Field(
        "no_change", description="The same for Gemma; part of the text features' keys."
    )
    text_encoder_loading: Literal["auto", "resident", "layer_by_layer"] = Field(
        "auto",
        description="Gemma whole in memory, or one layer at a time; auto: whole where that fits the budget.",
    )

    @model_validator(mode="after")
    def _whole_where_quantised(self) -> ModelSettings:
        if self.text_encoder_loading == "layer_by_layer" and self.text_encoder_1_precision != "no_change":
            raise ValueError(
                f"text_encoder_1_precision {self.text_encoder_1_precision} needs Gemma whole; leave it out, "
                "or write text_encoder_loading: resident"
            )
        return self


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
    max_train_steps: int = Field(60, ge=0, description="0 where num_train_epochs says how long.")
    num_train_epochs: int = Field(
        0, ge=0, description="Passes over the data; 0: max_train_steps says how long."
    )
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


class ValidationSettings(Strict):
    """What is rendered after training, from the base and from the LoRA."""

    validation_disable: bool = False
    validation_prompts: dict[str, str] = Field(
        default_factory=dict, description="Short name -> prompt. Empty: the first captions of the dataset."
    )
    validation_negative_prompt: str = "worst quality, inconsistent motion, blurry, jittery, distorted"
    validation_guidance: float = Field(5.0, ge=1)
    validation_num_inference_steps: int = Field(40, ge=2, description="One step alone divides by zero.")
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
    """The machine's memory that a stage may use, and where weights are. Left out: what the machine has.

    Each strategy trains the same adapter to the bit; they differ in time and memory.
    """

    vram_gib: float | None = Field(None, gt=0)
    ram_gib: float | None = Field(None, gt=0)
    strategy: Strategy = Field(
        "auto",
        description="Where the transformer's weights are while it trains. auto: the fastest that fits.",
    )
    resident_blocks: int | None = Field(
        None, ge=0, description="Blocks that stay on the device under block_streaming. Default: all that fit."
    )
    musubi_blocks_to_swap: int = Field(0, ge=0, le=47, description="Stream the last so many blocks.")
    musubi_block_swap_device: Literal["cpu"] = Field("cpu", description="Where swapped blocks are kept.")
    ramtorch: bool = Field(False, description="All blocks in host memory, streamed. Needs CUDA.")
    enable_group_offload: bool = Field(False, description="Group offload by diffusers' hooks.")
    group_offload_type: Literal["block_level", "leaf_level"] = "block_level"
    group_offload_blocks_per_group: PositiveInt = 1
    group_offload_use_stream: bool = Field(False, description="Copy beside the computation. Needs CUDA.")
    group_offload_to_disk_path: Path | None = Field(None, description="Keep the groups in files there.")

    @model_validator(mode="after")
    def _one_strategy(self) -> MemorySettings:
        asked = {
            "musubi_blocks_to_swap": ("block_streaming", self.musubi_blocks_to_swap > 0),
            "ramtorch": ("ramtorch", self.ramtorch),
            "enable_group_offload": ("group_offload", self.enable_group_offload),
            "resident_blocks": ("block_streaming", self.resident_blocks is not None),
        }
        given = {key: strategy for key, (strategy, on) in asked.items() if on}
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} each say where the weights are; keep one of them")
        for key, strategy in given.items():
            if self.strategy not in ("auto", strategy):
                raise ValueError(f"{key} means strategy: {strategy}, but strategy is {self.strategy}")
        return self

    @property
    def forced(self) -> Strategy:
        """The strategy that the settings ask for, by name or by one of the seed's keys."""
        if self.ramtorch:
            return "ramtorch"
        if self.enable_group_offload:
            return "group_offload"
        if self.musubi_blocks_to_swap or self.resident_blocks is not None:
            return "block_streaming"
        return self.strategy


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
    """Everything about a training but its data; `data` only says what datasets may leave out."""

    model: ModelSettings = Field(default_factory=ModelSettings)
    encode: EncodeSettings = Field(default_factory=EncodeSettings)
    lora: LoraSettings = Field(default_factory=LoraSettings)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    validation: ValidationSettings = Field(default_factory=ValidationSettings)
    memory: MemorySettings = Field(default_factory=MemorySettings)
    tracking: TrackingSettings = Field(default_factory=TrackingSettings)
    data: DataDefaults = Field(default_factory=DataDefaults)


def load_recipe(path: Path) -> Recipe:
    """Read a recipe file, or the seed's config.json, whose keys are translated and logged.

    Raises:
        ConfigError: with file, line, key and what to write instead.
    """
    data, lines = read_document(path)
    if is_flat(data, Recipe.model_fields):
        translation = translate_config(data, path, lines)
        translation.check()
        translation.log()
        data, lines = translation.data, translation.places
    recipe: Recipe = parse(Recipe, {} if data is None else data, str(path), lines)
    return recipe
