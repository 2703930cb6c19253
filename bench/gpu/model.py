"""A transformer of the released size with random weights, made where it is wanted: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from ltxcore.models.files.assembling import build_empty
from ltxcore.models.versions import VERSIONS

SMALL: Mapping[str, Any] = MappingProxyType(
    {
        "in_channels": 16,
        "out_channels": 16,
        "num_attention_heads": 4,
        "attention_head_dim": 16,
        "cross_attention_dim": 64,
        "audio_in_channels": 8,
        "audio_out_channels": 8,
        "audio_num_attention_heads": 4,
        "audio_attention_head_dim": 8,
        "audio_cross_attention_dim": 32,
        "num_layers": 4,
        "caption_channels": 48,
    }
)
SMALL_CONNECTORS: Mapping[str, Any] = MappingProxyType(
    {
        "caption_channels": 48,
        "text_proj_in_factor": 4,
        **{
            f"{stream}_connector_{key}": value
            for stream in ("video", "audio")
            for key, value in {
                "num_attention_heads": 4,
                "attention_head_dim": 12,
                "num_layers": 1,
                "num_learnable_registers": 16,
            }.items()
        },
        "video_hidden_dim": 48,
        "audio_hidden_dim": 48,
    }
)
# Deviation of the random weights: activations neither vanish nor grow over 48 blocks.
SPREAD = 0.02


def transformer_config(small: bool) -> dict[str, Any]:
    """LTX-2.0's configuration, or the shrunk one's."""
    return {**VERSIONS["2.0"].transformer, **(SMALL if small else {})}


def random_transformer(small: bool, precision: str, device: str, home: str, blocks: int | None = None) -> Any:
    """LTX-2.0's transformer, frozen.

    Args:
        small: shrunk, for a machine without a GPU.
        precision: `no_change` (bf16), or one of quanto's.
        device: where values are drawn and quantised, one tensor at a time.
        home: where the weights are left.
        blocks: how many, if not as many as it has.
    """
    from diffusers import LTX2VideoTransformer3DModel

    config = transformer_config(small) | ({"num_layers": blocks} if blocks else {})
    model = random_model(lambda: LTX2VideoTransformer3DModel(**config), device, home)
    if precision != "no_change":
        from optimum import quanto

        kind = {"int8-quanto": quanto.qint8, "fp8-quanto": quanto.qfloat8, "int4-quanto": quanto.qint4}
        for block in model.transformer_blocks:
            block.to(device)
            quanto.quantize(block, weights=kind[precision])
            quanto.freeze(block)
            block.to(home)
    return model.eval().requires_grad_(False)


def random_connectors(small: bool, device: str) -> Any:
    """LTX-2.0's connectors, frozen, on the host."""
    from diffusers.pipelines.ltx2 import LTX2TextConnectors

    config = {**VERSIONS["2.0"].connectors, **(SMALL_CONNECTORS if small else {})}
    return random_model(lambda: LTX2TextConnectors(**config), device, "cpu").eval().requires_grad_(False)


def random_model(build: Any, device: str, home: str) -> Any:
    """A model in bf16 whose values are drawn on `device`, one tensor at a time, and left at `home`."""
    model = build_empty(build)
    generator = torch.Generator(device).manual_seed(0)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                drawn = torch.empty(parameter.shape, dtype=torch.bfloat16, device=device)
                drawn.normal_(std=SPREAD, generator=generator)
                module._parameters[name] = nn.Parameter(drawn.to(home), requires_grad=False)
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(home)
    return model
