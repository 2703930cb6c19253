"""The models that a rendering runs: all of LTX-2 but its text encoder, and what the recipe adds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ltxcore.memory.arrangement import Arrangement
from ltxcore.memory.placement import Placement
from ltxcore.models.files.loading import (
    load_audio_vae,
    load_connectors,
    load_diffusion_decoder,
    load_latent_upsampler,
    load_transformer,
    load_video_vae,
    load_vocoder,
)
from ltxcore.models.files.source import ModelSource
from ltxcore.models.files.standalone import Standalone
from ltxcore.models.text.text_connectors import PrecomputedConnectors
from ltxcore.models.version import Version


@dataclass(frozen=True)
class Components:
    """The models that a rendering runs, frozen, on one device but for what is streamed."""

    transformer: Any
    placement: Placement
    """What holds the transformer."""
    connectors: Any
    """`LTX2TextConnectors`, or what stands in their place for captions that went through them already."""
    video_width: int
    """Dv, the width of the video connector's output."""
    vae: Any
    audio_vae: Any
    vocoder: Any
    max_tokens: int
    """Slots of the text: `ModelSource.text_max_tokens`."""
    stg_block: int
    """The block that STG perturbs where the plan names none."""
    upsampler: Any = None
    """`LTX2LatentUpsamplerModel`, where renderings have a second stage."""
    diffusion_decoder: Any = None
    """`LTX2VideoDiffusionDecoderModel`, where it makes the pictures."""


def load_components(
    source: ModelSource,
    dtype: torch.dtype,
    device: torch.device | str,
    arrangement: Arrangement | None = None,
    connectors: PrecomputedConnectors | None = None,
    upsampler: Standalone | None = None,
    diffusion_decoder: Standalone | None = None,
) -> Components:
    """Load all that a rendering needs, which is all of the model but its text encoder.

    Args:
        arrangement: where the transformer's weights shall be. None: all of them on the device.
        connectors: stands in their place where all captions went through them already; they are not loaded.
        upsampler: for renderings with a second stage.
        diffusion_decoder: for renderings that it decodes.

    Raises:
        ModelError: a component is missing or incomplete.
        PinningFailed, NotOffloadable: the arrangement is not possible here.
    """
    arrangement = arrangement or Arrangement()
    # What is resident goes straight to the device; what is streamed never is there as a whole.
    first = device if arrangement.strategy == "resident" else "cpu"
    transformer = load_transformer(source, dtype, first)
    text = source.config("connectors")
    return Components(
        transformer=transformer,
        placement=Placement(transformer, arrangement, device),
        connectors=connectors or load_connectors(source, dtype, device),
        video_width=text["video_connector_num_attention_heads"] * text["video_connector_attention_head_dim"],
        vae=load_video_vae(source, dtype, device),
        audio_vae=load_audio_vae(source, dtype, device),
        vocoder=load_vocoder(source, dtype, device),
        max_tokens=source.text_max_tokens,
        stg_block=usual_stg_block(source.version, transformer.config.num_layers),
        upsampler=None if upsampler is None else load_latent_upsampler(upsampler, dtype, device),
        diffusion_decoder=(
            None if diffusion_decoder is None else load_diffusion_decoder(diffusion_decoder, dtype, device)
        ),
    )


def usual_stg_block(version: Version, layers: int) -> int:
    """The block that the reference perturbs; a model of another depth has its own at the same share of it."""
    released: int = version.transformer["num_layers"]
    return version.stg_block * layers // released
