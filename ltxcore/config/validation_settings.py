"""What is rendered to look at the LoRA."""

from __future__ import annotations

from pydantic import Field, PositiveInt, field_validator

from ltxcore.config.base import Strict


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
