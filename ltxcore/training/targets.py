"""Checks names of LoRA targets against a transformer's layers. Imports no torch, because jobs are checked
before loading."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from ltxcore.config.conditioning_settings import Modality
from ltxcore.config.errors import nearest
from ltxcore.config.lora_settings import LoraSettings

PROJECTIONS: Final = ("to_q", "to_k", "to_v", "to_out.0")
BLOCK_CLASSES: Final = (
    "LTX2VideoTransformerBlock",
    "LTX2Attention",
    "FeedForward",
    "ModuleList",
    "Linear",
    "Dropout",
    "GELU",
    "RMSNorm",
)
"""Classes of the modules in the transformer's blocks."""

AUDIO_MODULES: Final = (
    "audio_proj_in",
    "audio_proj_out",
    "audio_caption_projection.linear_1",
    "audio_caption_projection.linear_2",
    "audio_ff.net.0.proj",
    "audio_ff.net.2",
)
VIDEO_ATTENTIONS: Final = ("attn1", "attn2")
AUDIO_ATTENTIONS: Final = ("audio_attn1", "audio_attn2")
READS_AUDIO, READS_VIDEO = "audio_to_video_attn", "video_to_audio_attn"


class UnknownTarget(ValueError):
    """A LoRA target is not a linear layer of the transformer."""


def default_targets(
    with_audio: bool, with_video: bool = True, frozen: Modality | None = None
) -> tuple[str, ...]:
    """Module suffixes that get a LoRA where the recipe names none.

    Without sound only the video's own attentions, without pictures only the sound's own modules: no loss
    reaches the others. Where one modality is frozen, the other one's modules and the attention by which it
    reads the frozen one, whose own stream stays the base model's.
    """
    if frozen == "audio":
        return _projections(*VIDEO_ATTENTIONS, READS_AUDIO)
    if frozen == "video":
        return (*_projections(*AUDIO_ATTENTIONS, READS_VIDEO), *AUDIO_MODULES)
    if not with_video:
        return (*_projections(*AUDIO_ATTENTIONS), *AUDIO_MODULES)
    if with_audio:
        return (*PROJECTIONS, *AUDIO_MODULES)
    return _projections(*VIDEO_ATTENTIONS)


def _projections(*attentions: str) -> tuple[str, ...]:
    return tuple(f"{attention}.{projection}" for attention in attentions for projection in PROJECTIONS)


def require_targets(linears: Collection[str], suffixes: Sequence[str]) -> None:
    """Check that each suffix of a recipe matches a linear layer.

    Raises:
        UnknownTarget: one is of none; names the nearest that is.
    """
    for suffix in suffixes:
        if not any(fits(name, suffix) for name in linears):
            known = {*PROJECTIONS, *map(without_block, linears)}
            raise UnknownTarget(
                f"lora_targets: `{suffix}` is not a linear layer of the transformer; "
                + nearest(suffix, known)
            )


def require_classes(known: Collection[str], classes: Sequence[str]) -> None:
    """Check that the blocks have modules of each class that a preset names.

    Raises:
        UnknownTarget: they have none; names those that they have.
    """
    for kind in classes:
        if not any(class_is(name, kind) for name in known):
            raise UnknownTarget(
                f"lycoris_config.apply_preset.target_module: the blocks have no `{kind}`; "
                + nearest(kind, known)
            )


def check_targets(settings: LoraSettings, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that the targets of a recipe are in the transformer, from its weights' shapes.

    Raises:
        UnknownTarget: see `require_targets` and `require_classes`.
    """
    linears = [
        name.removesuffix(".weight")
        for name, shape in shapes.items()
        if name.endswith(".weight") and len(shape) == 2
    ]
    if settings.lora_targets is not None:
        require_targets(linears, settings.lora_targets)
    lycoris = settings.lycoris
    if lycoris is not None and lycoris.apply_preset is not None:
        require_classes(BLOCK_CLASSES, lycoris.apply_preset.target_module)


def fits(name: str, suffix: str) -> bool:
    """Whether a layer's name ends in a suffix, in whole parts."""
    return name == suffix or name.endswith("." + suffix)


def without_block(name: str) -> str:
    """A layer's name without the number of its block."""
    return re.sub(r"^transformer_blocks\.\d+\.", "", name)


def class_is(name: str, kind: str) -> bool:
    """Whether a class is the one that is meant; LTX-2's own prefix may be left out: `Attention`."""
    return name in (kind, f"LTX2{kind}")
