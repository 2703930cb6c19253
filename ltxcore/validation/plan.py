"""What a validation renders, worked out from the recipe before any model loads, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ltxcore.config.validation_settings import ValidationSettings
from ltxcore.models.versions import GEOMETRY
from ltxcore.store.fingerprint import derive_seed

SPATIAL_MULTIPLE = GEOMETRY.spatial_factor * GEOMETRY.patch_size
TEMPORAL_MULTIPLE = GEOMETRY.temporal_factor
USUAL_GUIDANCE = (2.0, 6.0)
DISTILLED_GUIDANCE = 1.0
DISTILLED_SIGMAS = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875)
"""The schedule that distilled weights are made for (ltx2-facts section 6)."""
REFERENCE_AUDIO_GUIDANCE, REFERENCE_STG, REFERENCE_MODALITY, REFERENCE_RESCALE = 7.0, 1.0, 3.0, 0.7
"""The reference's scales (ltx2-facts section 6), used where the recipe says nothing."""

Frames = np.ndarray[Any, np.dtype[np.uint8]]
Waveform = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class RenderPlan:
    """Size, length and sampling of every rendering. `notes` say what was changed in the recipe's wishes."""

    width: int
    height: int
    num_frames: int
    fps: float
    steps: int
    guidance: float
    seed: int
    notes: tuple[str, ...] = ()
    audio_guidance: float = DISTILLED_GUIDANCE
    stg_scale: float = 0.0
    stg_blocks: tuple[int, ...] | None = None
    """None: those of the model's version."""
    modality_scale: float = 1.0
    rescale: float = 0.0

    sigmas: tuple[float, ...] | None = None
    """The noise levels before the last, which is 0; None: the reference's schedule for `steps`."""

    def distilled(self) -> RenderPlan:
        """The same rendering with distilled weights: eight steps of their own schedule, without guidance."""
        return replace(
            self,
            steps=len(DISTILLED_SIGMAS),
            sigmas=DISTILLED_SIGMAS,
            guidance=DISTILLED_GUIDANCE,
            audio_guidance=DISTILLED_GUIDANCE,
            stg_scale=0.0,
            modality_scale=1.0,
            rescale=0.0,
        )

    @property
    def is_guided(self) -> bool:
        """Whether the negative prompt takes part."""
        return max(self.guidance, self.audio_guidance) > DISTILLED_GUIDANCE

    def told_guidance(self) -> str:
        """The guidance in a few words."""
        parts = [f"{self.guidance:g}"]
        if self.audio_guidance != self.guidance:
            parts.append(f"sound {self.audio_guidance:g}")
        if self.stg_scale:
            parts.append(f"STG {self.stg_scale:g}")
        if self.modality_scale != 1:
            parts.append(f"modality {self.modality_scale:g}")
        if self.rescale:
            parts.append(f"rescale {self.rescale:g}")
        return ", ".join(parts)

    @property
    def duration_s(self) -> float:
        return self.num_frames / self.fps

    def seed_of(self, name: str) -> int:
        """The seed of a prompt: by its name, so that adding a prompt changes no other's noise."""
        return derive_seed(self.seed, name)


@dataclass(frozen=True)
class Rendering:
    """A rendered clip: frames uint8 [F, H, W, 3] and sound float32 [2, N] in [-1, 1]."""

    name: str
    frames: Frames
    audio: Waveform
    fps: float
    sample_rate: int
    seed: int
    render_s: float
    """How long the rendering took, in seconds."""


def plan_rendering(settings: ValidationSettings) -> RenderPlan:
    """The legal rendering nearest to the settings that is not larger than they ask.

    LTX-2's VAE takes frames of 8n + 1 and edges that are multiples of 32 (ltx2-facts section 1).

    Raises:
        ValueError: an edge is below 32 pixels.
    """
    notes = []
    width, height = (int(edge) for edge in settings.validation_resolution.split("x"))
    if min(width, height) < SPATIAL_MULTIPLE:
        raise ValueError(
            f"validation_resolution {settings.validation_resolution} has an edge below {SPATIAL_MULTIPLE} "
            "pixels; write width x height in multiples of 32, e.g. 768x512"
        )
    legal_width, legal_height = (edge - edge % SPATIAL_MULTIPLE for edge in (width, height))
    if (legal_width, legal_height) != (width, height):
        notes.append(
            f"validation_resolution {width}x{height} is rendered at {legal_width}x{legal_height}: "
            "edges must be multiples of 32"
        )
    asked = settings.validation_num_video_frames
    num_frames = (asked - 1) // TEMPORAL_MULTIPLE * TEMPORAL_MULTIPLE + 1
    if num_frames != asked:
        notes.append(f"validation_num_video_frames {asked} is rendered as {num_frames}: lengths must be 8n+1")
    guidance = settings.validation_guidance
    low, high = USUAL_GUIDANCE
    if guidance != DISTILLED_GUIDANCE and not low <= guidance <= high:
        notes.append(
            f"validation_guidance {guidance:g} is outside {low:g}-{high:g}: lower drifts from the prompt, "
            "higher burns colours and sound (1 is for distilled weights)"
        )
    return RenderPlan(
        **_guidance(settings),
        width=legal_width,
        height=legal_height,
        num_frames=num_frames,
        fps=settings.validation_frame_rate,
        steps=settings.validation_num_inference_steps,
        seed=settings.validation_seed,
        notes=tuple(notes),
    )


def is_distilled(lora: Path) -> bool:
    """Whether a LoRA file makes the weights distilled ones, as its name says."""
    return "distilled" in lora.name.lower()


def _guidance(settings: ValidationSettings) -> dict[str, Any]:
    """Every scale: the settings', else the reference's, and none at all for distilled weights."""
    distilled = settings.validation_guidance == DISTILLED_GUIDANCE

    def chosen(value: float | None, usual: float, none: float) -> float:
        # `or` would take a 0.0 that is asked for as nothing said.
        return (none if distilled else usual) if value is None else value

    return {
        "guidance": settings.validation_guidance,
        "audio_guidance": chosen(settings.validation_audio_guidance, REFERENCE_AUDIO_GUIDANCE, 1.0),
        "stg_scale": chosen(settings.validation_stg_scale, REFERENCE_STG, 0.0),
        "stg_blocks": settings.validation_stg_blocks,
        "modality_scale": chosen(settings.validation_modality_scale, REFERENCE_MODALITY, 1.0),
        "rescale": chosen(settings.validation_guidance_rescale, REFERENCE_RESCALE, 0.0),
    }
