"""`preservation`: what the base says without the trigger stays what it says."""

from __future__ import annotations

from pydantic import Field, model_validator

from ltxcore.config.base import Strict


class PreservationSettings(Strict):
    """Batches of the training's own clips with other captions, whose target is the base model's prediction.

    Their target is what the base predicts with the same caption from the same noise, so that the adapter
    learns to change nothing there. They take the place of other batches, and need no data of their own.
    """

    blank_prompt_probability: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of batches with the empty caption, whose target is the base model's prediction.",
    )
    class_prompt_probability: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of batches with `class_prompt` for the trigger, whose target is the base model's "
        "prediction (differential output preservation).",
    )
    class_prompt: str | None = Field(
        None, min_length=1, description="The class of what is trained, e.g. `a dog`, without the trigger."
    )

    @model_validator(mode="after")
    def _something_is_learnt(self) -> PreservationSettings:
        if self.blank_prompt_probability + self.class_prompt_probability >= 1:
            raise ValueError(
                "blank_prompt_probability and class_prompt_probability leave no batch to learn from; write "
                "e.g. 0.2 for both"
            )
        if self.class_prompt_probability and self.class_prompt is None:
            raise ValueError("class_prompt_probability needs `class_prompt`, e.g. a dog")
        if self.class_prompt is not None and not self.class_prompt_probability:
            raise ValueError("class_prompt has no effect without class_prompt_probability; write e.g. 0.2")
        return self

    @property
    def enabled(self) -> bool:
        """Whether some batches have the base model's prediction as their target."""
        return bool(self.blank_prompt_probability or self.class_prompt_probability)
