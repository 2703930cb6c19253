"""What validation renders."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from ltxcore.config.base import Strict
from ltxcore.config.errors import nearest
from ltxcore.config.geometry import GEOMETRY
from ltxcore.config.seeds import OPEN
from ltxcore.config.validation_adapters import AdapterFile, AdapterRun

_OFF: tuple[tuple[str, Any], ...] = (
    ("upscale", 1),
    ("upscale_lora", None),
    ("decoder", "conv"),
    ("validation_keyframes", {}),
)


class ValidationSettings(Strict):
    """What is rendered after training, from the base and from the LoRA."""

    validation_disable: bool = Field(False, description="Render nothing.")
    validation_step_interval: int = Field(
        100, ge=0, description="Steps between samples while the training goes on; 0: only at its end."
    )
    validation_prompts: dict[str, str] = Field(
        default_factory=dict, description="Short name -> prompt. Empty: the first captions of the dataset."
    )
    validation_keyframes: dict[str, dict[int, str]] = Field(
        default_factory=dict,
        description="Short name of a prompt -> frame -> picture file: what its renderings show there. Frames "
        "are counted from 0, negative ones from the end: -1 is the last.",
    )
    validation_negative_prompt: str = Field(
        "worst quality, inconsistent motion, blurry, jittery, distorted",
        description="The prompt from which guidance leads away.",
    )
    validation_guidance: float = Field(
        5.0,
        ge=1,
        description="Guidance of the pictures; 1: none. 2 to 6 is usual; other values give a warning.",
    )
    validation_audio_guidance: float | None = Field(
        None, ge=1, description="The same for the sound. Default: 7, or 1 where validation_guidance is 1."
    )
    validation_stg_scale: float | None = Field(
        None,
        ge=0,
        description="Guidance away from a model whose self-attention is left out in validation_stg_blocks; "
        "0: none. Default: 1, or 0 where validation_guidance is 1.",
    )
    validation_stg_blocks: tuple[int, ...] | None = Field(
        None, min_length=1, description="Default: 29 for LTX-2.0, 28 for 2.3 and 2.5."
    )
    validation_modality_scale: float | None = Field(
        None,
        ge=1,
        description="Guidance away from a model in which pictures and sound do not see each other; 1: none. "
        "Default: 3, or 1 where validation_guidance is 1.",
    )
    validation_guidance_rescale: float | None = Field(
        None,
        ge=0,
        le=1,
        description=(
            "How far the guided prediction is rescaled to the deviation of the unguided one. "
            "Default: 0.7, or 0 where validation_guidance is 1."
        ),
    )
    validation_disable_unconditional: bool = Field(
        True, description="False: the empty prompt is rendered as well, as `unconditional`."
    )
    validation_num_inference_steps: int = Field(
        40, ge=2, description="Denoising steps; at least 2, because a single step would divide by zero."
    )
    validation_num_video_frames: PositiveInt = Field(
        49, description="Frames of a rendering; rounded down to 8n+1."
    )
    validation_resolution: str = Field(
        "768x512",
        pattern=r"^\d+x\d+(,\d+x\d+)*$",
        description=(
            "Width x height. Several sizes are separated by commas; each prompt is rendered in each size."
        ),
    )
    validation_modality: Literal["auto", "both", "video", "audio"] = Field(
        "auto",
        description=(
            "What is rendered; a single modality is generated without the other. auto: only sound"
            " if all data is sound, otherwise both."
        ),
    )
    validation_frame_rate: float = Field(25.0, gt=0, description="Frames a second of the renderings.")
    validation_adapter_path: str | None = Field(
        None,
        description="A LoRA that every rendering has beside the trained one: a file, or "
        "`repo_id:weight_name`.",
    )
    validation_adapter_config: tuple[AdapterRun, ...] = Field(
        (), description="Further renderings of each prompt, each with LoRAs of its own and a label."
    )
    upscale: Literal[1, 2] = Field(
        1,
        description="2: rendered in two stages. The first is at validation_resolution; model."
        "latent_upsampler doubles width and height of its latents, and three more steps refine them.",
    )
    upscale_lora: AdapterFile | None = Field(
        None,
        description="The distilled LoRA, which is on in the second stage alone and turns its guidance off: a "
        "file, `repo_id:weight_name`, or `{path, strength}`.",
    )
    decoder: Literal["conv", "diffusion"] = Field(
        "conv",
        description="What makes pictures of latents: the VAE's own decoder, or LTX-2.5's diffusion decoder, "
        "which is better, slower, and needs 17 frames and 224 pixels at least.",
    )
    validation_seed: int = Field(
        42,
        ge=OPEN,
        lt=2**63,
        description="Seed of the renderings' noise. -1: drawn once for each run and kept with it.",
    )
    validation_using_datasets: bool = Field(
        False,
        description="Render clips of a dataset with what the recipe's conditioning gives of them, else from "
        "their sound (S2V) or first frame (I2V); at their size and with their captions.",
    )
    eval_dataset_id: str | None = Field(
        None,
        description="The dataset for validation_using_datasets. Default: the first clips of all datasets.",
    )

    @model_validator(mode="after")
    def _a_set_is_used(self) -> ValidationSettings:
        if self.eval_dataset_id is not None and not self.validation_using_datasets:
            raise ValueError(
                f"eval_dataset_id {self.eval_dataset_id!r} has no effect without validation_using_datasets: "
                "true; add that, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _pictures(self) -> ValidationSettings:
        if self.upscale_lora is not None and self.upscale == 1:
            raise ValueError(
                "upscale_lora is for the second stage, and there is one; write upscale: 2, or leave it out"
            )
        if self.decoder != "conv" and self.validation_modality == "audio":
            raise ValueError(
                f"decoder: {self.decoder} makes pictures, and validation_modality: audio renders none; leave "
                "one of them out"
            )
        if self.upscale > 1 and self.validation_modality == "audio":
            raise ValueError(
                f"upscale: {self.upscale} doubles pictures, and validation_modality: audio renders none; "
                "leave one of them out"
            )
        return self

    def fingerprint_data(self) -> dict[str, Any]:
        """Without what is off: keys that came later leave earlier results what they are."""
        return {k: v for k, v in super().fingerprint_data().items() if (k, v) not in _OFF}

    @field_validator("validation_resolution", mode="before")
    @classmethod
    def _without_spaces(cls, value: object) -> object:
        return "".join(value.split()) if isinstance(value, str) else value

    @property
    def resolutions(self) -> tuple[str, ...]:
        """Every size that is asked for, once, as width x height."""
        return tuple(dict.fromkeys(self.validation_resolution.split(",")))

    @field_validator("validation_prompts")
    @classmethod
    def _slugs(cls, prompts: dict[str, str]) -> dict[str, str]:
        for name, prompt in prompts.items():
            if not name or not all(c.isalnum() or c in "-_" for c in name):
                raise ValueError(f"the short name {name!r} may hold letters, digits, - and _ only")
            if not prompt.strip():
                raise ValueError(f"the prompt of {name!r} is empty")
        return prompts

    @property
    def keyframes(self) -> dict[str, dict[int, Path]]:
        """Short name of a prompt -> frame -> the file of the picture that is given there."""
        return {
            name: {at: Path(file).expanduser() for at, file in frames.items()}
            for name, frames in self.validation_keyframes.items()
        }

    @model_validator(mode="after")
    def _keyframes_have_a_place(self) -> ValidationSettings:
        asked, frames = self.validation_keyframes, GEOMETRY.legal_frames(self.validation_num_video_frames)
        unknown = [name for name in asked if name not in self.validation_prompts]
        if unknown:
            raise ValueError(
                f"validation_keyframes gives pictures to {unknown[0]!r}, which is no prompt of "
                f"validation_prompts; {nearest(unknown[0], self.validation_prompts)}"
            )
        if asked and self.validation_using_datasets:
            raise ValueError(
                "validation_keyframes gives pictures to prompts, and validation_using_datasets renders "
                "clips; leave one of them out"
            )
        if asked and self.validation_modality == "audio":
            raise ValueError("validation_keyframes gives pictures, and validation_modality: audio makes none")
        for name, pictures in asked.items():
            outside = [at for at in pictures if not -frames <= at < frames]
            if outside:
                raise ValueError(
                    f"validation_keyframes of {name!r} has frame {outside[0]}, and {frames} frames are "
                    f"rendered; write frames from 0 to {frames - 1}, or -1 for the last"
                )
            places = [at % frames for at in pictures]
            if len(set(places)) < len(places):
                raise ValueError(
                    f"validation_keyframes of {name!r} has two pictures for one frame: {list(pictures)}"
                )
        return self

    @field_validator("validation_stg_blocks")
    @classmethod
    def _blocks(cls, blocks: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if blocks is not None and (min(blocks) < 0 or len(set(blocks)) < len(blocks)):
            raise ValueError(f"found {list(blocks)}; write each block once, counted from 0, e.g. [29]")
        return blocks

    @model_validator(mode="after")
    def _adapters(self) -> ValidationSettings:
        if self.validation_adapter_path and self.validation_adapter_config:
            raise ValueError(
                "validation_adapter_path and validation_adapter_config are both given; keep one of them"
            )
        labels = [run.label for run in self.validation_adapter_config]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(
                f"validation_adapter_config has the label {twice[0]!r} twice; give each run its own"
            )
        return self

    @property
    def adapter_runs(self) -> tuple[tuple[str, tuple[AdapterFile, ...]], ...]:
        """The ways in which each prompt is rendered: a label, empty where there is none, and the adapters."""
        if self.validation_adapter_path:
            return (("", (AdapterFile(path=self.validation_adapter_path),)),)
        return (("", ()), *((run.label, run.adapters) for run in self.validation_adapter_config))

    @property
    def adapter_paths(self) -> tuple[str, ...]:
        """Every adapter once, as it is written."""
        found = {adapter.path for _, adapters in self.adapter_runs for adapter in adapters}
        return tuple(sorted(found | ({self.upscale_lora.path} if self.upscale_lora else set())))
