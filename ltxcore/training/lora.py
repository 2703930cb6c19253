"""The adapter: which modules get a LoRA, and its weights in the transformer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from ltxcore.config.conditioning_settings import Modality
from ltxcore.config.errors import nearest
from ltxcore.config.lora_settings import LoraSettings
from ltxcore.training.adapters import ADAPTER, Reading, in_place, inject, is_of_class, start
from ltxcore.training.shares import spread

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
AUDIO_MODULES = (
    "audio_proj_in",
    "audio_proj_out",
    "audio_caption_projection.linear_1",
    "audio_caption_projection.linear_2",
    "audio_ff.net.0.proj",
    "audio_ff.net.2",
)
VIDEO_ATTENTIONS = ("attn1", "attn2")
AUDIO_ATTENTIONS = ("audio_attn1", "audio_attn2")
READS_AUDIO, READS_VIDEO = "audio_to_video_attn", "video_to_audio_attn"


class UnknownTarget(ValueError):
    """A LoRA target that is no linear layer of the transformer."""


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


def target_modules(
    transformer: nn.Module,
    with_audio: bool,
    suffixes: Sequence[str] | None = None,
    with_video: bool = True,
    frozen: Modality | None = None,
) -> tuple[str, ...]:
    """Full names of the linear layers that get a LoRA, in the model's order.

    Args:
        transformer: an LTX-2 transformer without adapter.
        with_audio: whether the data has sound.
        with_video: whether the data has pictures.
        frozen: the modality that is given whole.
        suffixes: the recipe's own list, in whole name parts: `ff.net.2` does not fit `audio_ff.net.2`.

    Raises:
        UnknownTarget: a suffix of the recipe fits no linear layer; names the nearest that does.
    """
    linears = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)]
    # LTX-2.3 has no caption projection: a default that a version lacks is no mistake of the user's.
    wanted = default_targets(with_audio, with_video, frozen) if suffixes is None else tuple(suffixes)
    if suffixes is not None:
        for suffix in suffixes:
            if not any(_fits(name, suffix) for name in linears):
                known = {*PROJECTIONS, *map(_without_block, linears)}
                raise UnknownTarget(
                    f"lora_targets: `{suffix}` is no linear layer of the transformer; "
                    + nearest(suffix, known)
                )
    return tuple(name for name in linears if any(_fits(name, suffix) for suffix in wanted))


def preset_modules(
    transformer: nn.Module, classes: Sequence[str], with_audio: bool, with_video: bool = True
) -> tuple[str, ...]:
    """Full names of the linear layers inside modules of some classes, where a loss reaches them.

    Raises:
        UnknownTarget: the blocks have no module of a class; names those that they have.
    """
    blocks = {n: m for n, m in transformer.named_modules() if n.startswith("transformer_blocks.")}
    for kind in classes:
        if not any(is_of_class(module, kind) for module in blocks.values()):
            known = {type(module).__name__ for module in blocks.values()}
            raise UnknownTarget(
                f"lycoris_config.apply_preset.target_module: the blocks have no `{kind}`; "
                + nearest(kind, known)
            )
    inside = [n for n, m in blocks.items() if any(is_of_class(m, kind) for kind in classes)]
    return tuple(
        name
        for name, module in blocks.items()
        if isinstance(module, nn.Linear)
        and any(name.startswith(f"{above}.") for above in inside)
        and _is_reached(_without_block(name), with_audio, with_video)
    )


def _is_reached(layer: str, with_audio: bool, with_video: bool) -> bool:
    if "_to_" in layer.partition(".")[0]:
        return with_audio and with_video
    return with_audio if layer.startswith("audio_") else with_video


def _fits(name: str, suffix: str) -> bool:
    return name == suffix or name.endswith("." + suffix)


def _without_block(name: str) -> str:
    return re.sub(r"^transformer_blocks\.\d+\.", "", name)


def add_lora(
    transformer: nn.Module,
    settings: LoraSettings,
    targets: Sequence[str],
    seed: int,
    reading: Reading = in_place,
) -> None:
    """Freeze the transformer and add a trainable adapter, float32 over a base of any dtype.

    Its first values are drawn layer by layer from the seed, see `start`; the first forward is the base
    model's. `reading` is how base weights are read that may be away.
    """
    transformer.requires_grad_(False)
    inject(transformer, settings, targets)
    start(transformer, lora_parameters(transformer), seed, reading)


def lora_parameters(transformer: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters, named as in peft's files: `transformer_blocks.0.attn1.to_q.lora_A.weight`."""
    return {
        name.replace(f".{ADAPTER}.", ".").removesuffix(f".{ADAPTER}"): parameter
        for name, parameter in transformer.named_parameters()
        if parameter.requires_grad
    }


def load_weights(parameters: Mapping[str, nn.Parameter], weights: Mapping[str, torch.Tensor]) -> None:
    """Overwrite trained parameters, on their devices.

    Raises:
        ValueError: the names or shapes are not those of `parameters`.
    """
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    expected = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    if found != expected:
        wrong = sorted(
            name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
        )
        raise ValueError(
            f"these LoRA weights belong to another adapter: {len(wrong)} tensors differ, first {wrong[0]}: "
            f"found {found.get(wrong[0])}, expected {expected.get(wrong[0])}"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(spread(weights[name], like=parameter))
