"""Names and shapes of a released model's weights, from the versions table alone: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from ltxcore.models.versions import VERSIONS

Shapes = Mapping[str, tuple[int, ...]]
GEMMA_VALUES, GEMMA_LAYERS, GEMMA_WIDTH = 11_766_034_176, 48, 3840
"""Gemma 3 12B, the language model alone."""


@cache
def full_shapes(name: str) -> Mapping[str, Shapes]:
    """Component -> its weights, of a version at its released size.

    The models are built on the meta device, which takes seconds and no memory.
    """
    from diffusers import AutoencoderKLLTX2Video, LTX2VideoTransformer3DModel
    from diffusers.pipelines.ltx2 import LTX2TextConnectors

    version = VERSIONS[name]
    return {
        "transformer": _shapes(lambda: LTX2VideoTransformer3DModel(**version.transformer)),
        "connectors": _shapes(lambda: LTX2TextConnectors(**version.connectors)),
        "vae": _shapes(lambda: AutoencoderKLLTX2Video(**version.video_vae)),
    }


def _shapes(build: Callable[[], Any]) -> Shapes:
    import torch

    with torch.device("meta"):
        model = build()
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
