"""The published versions of LTX-2 with their flavours, files and repositories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

Storage = Literal["bf16", "fp8", "fp4"]
LICENCE: Final = "ltx-2-community-license-agreement"
LICENCE_LINK: Final = "https://github.com/Lightricks/LTX-2/blob/main/LICENSE.md"
"""Of every LTX-2 so far."""


@dataclass(frozen=True)
class FlavourFiles:
    """A published flavour."""

    storage: Storage
    """Of the transformer's large weights."""
    file: str
    """The combined checkpoint, or the transformer's pack."""
    packs: tuple[str, ...] = ()
    """The packs beside the transformer's; none where the file is the whole model."""


@dataclass(frozen=True)
class Published:
    """How one version is published."""

    repository: str
    flavours: Mapping[str, FlavourFiles]
    other_names: tuple[str | float, ...]
    """How other trainers write the version instead of a flavour; it means the first flavour."""
    upsampler: str
    """The file of the latent upsampler in the repository."""
    diffusion_decoder: str | None = None
    """The file of the decoder that is a diffusion model, where the version has one."""
    licence: str = LICENCE
    """Of the base, as the hub names it."""
    licence_link: str = LICENCE_LINK


_PACKS_2_5 = (
    "text_encoders/gemma4-12b-with-proj-ltx-2.5-bf16.safetensors",
    "vae/ltx-2.5-video-vae-conv-bf16.safetensors",
    "vae/ltx-2.5-audio-vae-bf16.safetensors",
)
PUBLISHED: Final[Mapping[str, Published]] = MappingProxyType(
    {
        "2.0": Published(
            repository="Lightricks/LTX-2",
            flavours={
                "dev": FlavourFiles("bf16", "ltx-2-19b-dev.safetensors"),
                "dev-fp8": FlavourFiles("fp8", "ltx-2-19b-dev-fp8.safetensors"),
                "dev-fp4": FlavourFiles("fp4", "ltx-2-19b-dev-fp4.safetensors"),
            },
            other_names=("2", "2.0", 2, 2.0),
            upsampler="ltx-2-spatial-upscaler-x2-1.0.safetensors",
        ),
        "2.3": Published(
            repository="Lightricks/LTX-2.3",
            flavours={
                "2.3-dev": FlavourFiles("bf16", "ltx-2.3-22b-dev.safetensors"),
                "2.3-distilled": FlavourFiles("bf16", "ltx-2.3-22b-distilled.safetensors"),
            },
            other_names=("2.3", 2.3),
            upsampler="ltx-2.3-spatial-upscaler-x2-1.1.safetensors",
        ),
        "2.5": Published(
            repository="Lightricks/LTX-2.5",
            flavours={
                f"2.5-{kind}": FlavourFiles(
                    "bf16", f"diffusion_models/ltx-2.5-22b-{kind}-transformer-bf16.safetensors", _PACKS_2_5
                )
                for kind in ("dev", "distilled")
            },
            other_names=("2.5", 2.5),
            upsampler="latent_upscale_models/ltx-2.5-latent-spatial-upscaler-x2-bf16-1.0.safetensors",
            diffusion_decoder="vae/ltx-2.5-video-vae-bf16.safetensors",
        ),
    }
)
DEFAULT_FLAVOUR: Final = "dev"
VERSION_OF: Final[Mapping[str, str]] = MappingProxyType(
    {flavour: version for version, row in PUBLISHED.items() for flavour in row.flavours}
)
"""Flavour -> version."""


def flavour_files(flavour: str) -> FlavourFiles:
    """The files of a known flavour."""
    return PUBLISHED[VERSION_OF[flavour]].flavours[flavour]
