"""What a validation renders, worked out from the recipe before any model loads, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ltxcore.config.validation_settings import ValidationSettings
from ltxcore.models.versions import GEOMETRY
from ltxcore.store.fingerprint import derive_seed

SPATIAL_MULTIPLE = GEOMETRY.spatial_factor * GEOMETRY.patch_size
TEMPORAL_MULTIPLE = GEOMETRY.temporal_factor
USUAL_GUIDANCE = (2.0, 6.0)
DISTILLED_GUIDANCE = 1.0

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
        width=legal_width,
        height=legal_height,
        num_frames=num_frames,
        fps=settings.validation_frame_rate,
        steps=settings.validation_num_inference_steps,
        guidance=guidance,
        seed=settings.validation_seed,
        notes=tuple(notes),
    )
