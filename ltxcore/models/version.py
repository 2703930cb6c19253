"""The type of the rows in the table of versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from ltxcore.config.published import Published

Config = Mapping[str, Any]
MARKS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "gated_attn": ".attn1.to_gate_logits.weight",
        "use_keyframes_abs_pos_embedding": "keyframes_abs_pos_embedding",
    }
)
"""What distinguishes versions: key of the transformer's configuration -> the end of a weight's name that
exists exactly if the key is true."""


@dataclass(frozen=True)
class TextEncoder:
    """The language model whose states become text features, at its released size."""

    name: str
    """As people call it."""
    model_class: str
    """The language model alone, in transformers."""
    model_types: tuple[str, str]
    """`model_type` of a configuration with other towers, and of the language model alone."""
    values: int
    """Parameters of the language model."""
    layers: int
    source: str
    """A hub id that has it."""
    tuned: str | None = None
    """`gemma_version` of the tuning that the transformer was trained with; None: as Google published it."""


@dataclass(frozen=True)
class Version:
    """One generation of LTX-2."""

    name: str
    published: Published
    classes: Mapping[str, str]
    """Component -> its class in diffusers."""
    transformer: Config
    connectors: Config
    video_vae: Config
    audio_vae: Config
    vocoder: Config
    upsampler: Config
    """Of the latent upsampler for renderings in two stages."""
    diffusion_decoder: Config | None
    """Of the second decoder for the latents, which is a diffusion model; None: there is none."""
    text_encoder: TextEncoder
    stg_block: int
    """The transformer block that the reference perturbs for spatio-temporal guidance."""
    image_crf: int
    """H.264 CRF with which a first-frame image is compressed before it is encoded."""
    sound_values: int
    """Parameters of the audio VAE and the vocoder, rounded (ltx2-facts section 7)."""

    @property
    def per_modality(self) -> bool:
        """Whether video and audio have separate text features instead of a shared one."""
        return bool(self.connectors.get("per_modality_projections"))

    @property
    def marks(self) -> dict[str, bool]:
        """The version's values of the keys that distinguish versions."""
        return marks_of(self.transformer)


def marks_of(transformer: Config) -> dict[str, bool]:
    """A transformer configuration's values of the keys that distinguish versions."""
    return {mark: bool(transformer.get(mark, False)) for mark in MARKS}
