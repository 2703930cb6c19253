"""CREPA aligns the hidden states of one block with a frozen DINOv2's features of the clip's frames."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from ltxcore.config.base import Strict

TINY_WIDTH = 32

TINY_TEACHER = "tiny"
PROJECTOR_FILE = "crepa_projector.safetensors"
"""What CREPA trains beside the LoRA, in the LoRA's folder."""
PATCH = 14
"""The edge of a patch of every DINOv2, in pixels."""
Teacher = Literal["dinov2_vits14", "dinov2_vitb14", "dinov2_vitl14", "dinov2_vitg14", "tiny"]


class CrepaSettings(Strict):
    """Cross-frame representation alignment. embed-frames computes the teacher's features once."""

    crepa_enabled: bool = Field(False, description="Add the alignment to the loss.")
    crepa_block_index: int = Field(
        8, ge=0, le=47, description="The block whose hidden states are aligned, from 0."
    )
    crepa_lambda: PositiveFloat = Field(0.5, description="Weight of the alignment in the loss.")
    crepa_adjacent_distance: NonNegativeInt = Field(
        1,
        description=(
            "Number of neighbouring frames on each side with which a frame is aligned too. 0: none."
        ),
    )
    crepa_adjacent_tau: PositiveFloat = Field(1.0, description="A frame at distance d counts exp(-d / tau).")
    crepa_encoder: Teacher = Field(
        "dinov2_vitg14", description="The teacher; `tiny` is a random DINOv2, for tests."
    )
    crepa_encoder_path: str | None = Field(
        None,
        min_length=1,
        description="Directory or hub id of its weights. Default: the repository of facebook on the hub.",
    )
    crepa_encoder_image_size: PositiveInt = Field(
        518, description="Edge that frames are resized to for the teacher, a multiple of 14."
    )
    crepa_encoder_batch_size: PositiveInt = Field(8, description="Frames through the teacher at once.")
    crepa_drop_vae_encoder: bool = Field(
        False, description="Accepted without effect: training never loads a VAE."
    )

    @model_validator(mode="after")
    def _fitting(self) -> CrepaSettings:
        size = self.crepa_encoder_image_size
        if size % PATCH:
            below = max(PATCH, size - size % PATCH)
            raise ValueError(
                f"crepa_encoder_image_size is {size}, but the teacher cuts its pictures into patches of "
                f"{PATCH}; give a multiple, such as {below} or {size - size % PATCH + PATCH}"
            )
        if self.crepa_encoder == TINY_TEACHER and self.crepa_encoder_path is not None:
            raise ValueError(
                "crepa_encoder_path says where weights are, and crepa_encoder tiny has none; leave out one"
            )
        return self

    def loss_data(self) -> dict[str, Any]:
        """The settings that change a training, without those of the teacher's features."""
        names = ("crepa_block_index", "crepa_lambda", "crepa_adjacent_distance", "crepa_adjacent_tau")
        return {name: getattr(self, name) for name in names}
