"""What a validation renders, worked out from the recipe before any model loads, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ltxcore.config.geometry import GEOMETRY
from ltxcore.config.validation_settings import ValidationSettings
from ltxcore.store.fingerprint import derive_seed

USUAL_GUIDANCE = (2.0, 6.0)
DISTILLED_GUIDANCE = 1.0
DISTILLED_SIGMAS = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875)
"""The schedule that distilled weights are made for (ltx2-facts section 6)."""
SECOND_STAGE_SIGMAS = (0.909375, 0.725, 0.421875)
"""The schedule of the second stage: the end of the distilled one (diffusers' ltx2 utils)."""
REFERENCE_AUDIO_GUIDANCE, REFERENCE_STG, REFERENCE_MODALITY, REFERENCE_RESCALE = 7.0, 1.0, 3.0, 0.7
"""The reference's scales (ltx2-facts section 6), used where the recipe says nothing."""

SOUND_ALONE_EDGE = 64
"""Edge in pixels of the pictures that stand beside a sound made alone: the VAE's padding needs two cells."""

Modality = Literal["both", "video", "audio"]
Decoder = Literal["conv", "diffusion"]
Frames = np.ndarray[Any, np.dtype[np.uint8]]
Waveform = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class RenderSettings:
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
    resolution: str = ""
    """The size that was asked for, as it is written in the recipe."""
    modality: Modality = "both"
    """One alone is made as if the other were not there."""
    sigmas: tuple[float, ...] | None = None
    """The noise levels before the last, which is 0; None: the reference's schedule for `steps`."""
    upscale: int = 1
    """How many times wider and higher the second stage makes the pictures; 1: there is none."""
    decoder: Decoder = "conv"
    """What makes pictures of the latents."""

    def distilled(self) -> RenderSettings:
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

    def second_stage(self, distilled: bool) -> RenderSettings:
        """The second stage of this rendering, at its own size and noise levels.

        Args:
            distilled: the weights are distilled ones in it, which need no guidance.
        """
        whole = self.distilled() if distilled else self
        width, height = self.final_size
        sigmas = SECOND_STAGE_SIGMAS
        return replace(whole, width=width, height=height, upscale=1, steps=len(sigmas), sigmas=sigmas)

    def of(self, modality: Modality) -> RenderSettings:
        """The same rendering of one modality alone, or of both."""
        if modality == "both":
            return self
        # There is nothing to guide away from: the modalities do not see each other anyway.
        alone = replace(self, modality=modality, modality_scale=1.0)
        if modality == "video":
            return replace(alone, audio_guidance=self.guidance)
        edge = SOUND_ALONE_EDGE
        sound = replace(alone, guidance=self.audio_guidance, width=edge, height=edge)
        # Of the pictures beside it nothing is shown.
        return replace(sound, upscale=1, decoder="conv")

    @property
    def is_guided(self) -> bool:
        """Whether the negative prompt takes part."""
        return max(self.guidance, self.audio_guidance) > DISTILLED_GUIDANCE

    def shown_guidance(self) -> str:
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
    def final_size(self) -> tuple[int, int]:
        """Width and height of the pictures that come of it."""
        return self.width * self.upscale, self.height * self.upscale

    @property
    def pixels(self) -> int:
        """Of all its frames."""
        width, height = self.final_size
        return width * height * self.num_frames

    @property
    def all_steps(self) -> int:
        """Denoising steps of all its stages."""
        return self.steps + (len(SECOND_STAGE_SIGMAS) if self.upscale > 1 else 0)

    @property
    def duration_s(self) -> float:
        """Seconds of one rendering."""
        return self.num_frames / self.fps

    def seed_of(self, name: str) -> int:
        """The seed of a prompt: by its name, so that adding a prompt changes no other's noise."""
        return derive_seed(self.seed, name)


@dataclass(frozen=True)
class Rendering:
    """A rendered clip: frames uint8 [F, H, W, 3] and sound float32 [2, N] in [-1, 1].

    Of a modality made alone the other is empty: F or N is 0.
    """

    name: str
    frames: Frames
    audio: Waveform
    fps: float
    sample_rate: int
    seed: int
    render_s: float
    """How long the rendering took, in seconds."""

    @property
    def has_pictures(self) -> bool:
        """Whether pictures were rendered."""
        return len(self.frames) > 0

    @property
    def has_sound(self) -> bool:
        """Whether sound was rendered."""
        return self.audio.shape[1] > 0


def settings_of_renderings(settings: ValidationSettings) -> tuple[RenderSettings, ...]:
    """The renderings of a prompt, one for each size that the settings ask for; see `render_settings`."""
    return of_each_size(render_settings(settings, resolution) for resolution in settings.resolutions)


def of_each_size(plans: Iterable[RenderSettings]) -> tuple[RenderSettings, ...]:
    """The first plan of each size, in their order."""
    found: dict[tuple[int, int], RenderSettings] = {}
    for plan in plans:
        found.setdefault((plan.width, plan.height), plan)
    return tuple(found.values())


def render_settings(settings: ValidationSettings, resolution: str | None = None) -> RenderSettings:
    """The legal rendering nearest to the settings that is not larger than they ask.

    LTX-2's VAE takes frames of 8n + 1 and edges that are multiples of 32 (ltx2-facts section 1).

    Args:
        settings: of the validation.
        resolution: which of their sizes; None: the first.

    Raises:
        ValueError: an edge is below 32 pixels.
    """
    notes = []
    resolution = resolution or settings.resolutions[0]
    width, height = (int(edge) for edge in resolution.split("x"))
    if min(width, height) < GEOMETRY.spatial_factor:
        raise ValueError(
            f"validation_resolution {resolution} has an edge below {GEOMETRY.spatial_factor} "
            "pixels; write width x height in multiples of 32, e.g. 768x512"
        )
    legal_width, legal_height = (GEOMETRY.legal_edge(edge) for edge in (width, height))
    if (legal_width, legal_height) != (width, height):
        notes.append(
            f"validation_resolution {width}x{height} is rendered at {legal_width}x{legal_height}: "
            "edges must be multiples of 32"
        )
    asked = settings.validation_num_video_frames
    num_frames = GEOMETRY.legal_frames(asked)
    if num_frames != asked:
        notes.append(f"validation_num_video_frames {asked} is rendered as {num_frames}: lengths must be 8n+1")
    guidance = settings.validation_guidance
    low, high = USUAL_GUIDANCE
    if guidance != DISTILLED_GUIDANCE and not low <= guidance <= high:
        notes.append(
            f"validation_guidance {guidance:g} is outside {low:g}-{high:g}: lower drifts from the prompt, "
            "higher burns colours and sound (1 is for distilled weights)"
        )
    return RenderSettings(
        **_guidance(settings),
        width=legal_width,
        height=legal_height,
        num_frames=num_frames,
        fps=settings.validation_frame_rate,
        steps=settings.validation_num_inference_steps,
        seed=settings.validation_seed,
        resolution=resolution,
        upscale=settings.upscale,
        decoder=settings.decoder,
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
