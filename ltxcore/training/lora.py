"""The adapter: which modules get a LoRA, and its weights in the transformer."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from ltxcore.config.errors import nearest
from ltxcore.config.lora_settings import LoraSettings
from ltxcore.store.fingerprint import derive_seed
from ltxcore.training.shares import spread

ADAPTER = "default"
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


class UnknownTarget(ValueError):
    """A LoRA target that is no linear layer of the transformer."""


def default_targets(with_audio: bool, with_video: bool = True) -> tuple[str, ...]:
    """Module suffixes that get a LoRA where the recipe names none.

    Without sound only the video's own attentions, without pictures only the sound's own modules: no loss
    reaches the others.
    """
    if not with_video:
        attentions = (f"{attention}.{name}" for attention in AUDIO_ATTENTIONS for name in PROJECTIONS)
        return (*attentions, *AUDIO_MODULES)
    if with_audio:
        return (*PROJECTIONS, *AUDIO_MODULES)
    return tuple(f"{attention}.{projection}" for attention in VIDEO_ATTENTIONS for projection in PROJECTIONS)


def target_modules(
    transformer: nn.Module,
    with_audio: bool,
    suffixes: Sequence[str] | None = None,
    with_video: bool = True,
) -> tuple[str, ...]:
    """Full names of the linear layers that get a LoRA, in the model's order.

    Args:
        transformer: an LTX-2 transformer without adapter.
        with_audio: whether the data has sound.
        with_video: whether the data has pictures.
        suffixes: the recipe's own list, in whole name parts: `ff.net.2` does not fit `audio_ff.net.2`.

    Raises:
        UnknownTarget: a suffix of the recipe fits no linear layer; names the nearest that does.
    """
    linears = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)]
    # LTX-2.3 has no caption projection: a default that a version lacks is no mistake of the user's.
    wanted = default_targets(with_audio, with_video) if suffixes is None else tuple(suffixes)
    if suffixes is not None:
        for suffix in suffixes:
            if not any(_fits(name, suffix) for name in linears):
                known = {*PROJECTIONS, *map(_without_block, linears)}
                raise UnknownTarget(
                    f"lora_targets: `{suffix}` is no linear layer of the transformer; "
                    + nearest(suffix, known)
                )
    return tuple(name for name in linears if any(_fits(name, suffix) for suffix in wanted))


def _fits(name: str, suffix: str) -> bool:
    return name == suffix or name.endswith("." + suffix)


def _without_block(name: str) -> str:
    return re.sub(r"^transformer_blocks\.\d+\.", "", name)


def add_lora(transformer: nn.Module, settings: LoraSettings, targets: Sequence[str], seed: int) -> None:
    """Freeze the transformer and add a trainable LoRA, float32 over a base of any dtype.

    A is Kaiming uniform, each layer's drawn from its own seed, so a layer's start does not depend on
    which others are trained; B is zero, so the first forward is the base model's.
    """
    from peft import LoraConfig

    transformer.requires_grad_(False)
    transformer.add_adapter(
        LoraConfig(
            r=settings.lora_rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.lora_dropout,
            target_modules=list(targets),
        ),
        adapter_name=ADAPTER,
    )
    for name, parameter in lora_parameters(transformer).items():
        parameter.data = parameter.data.float()
        if name.endswith("lora_A.weight"):
            generator = torch.Generator().manual_seed(derive_seed(seed, "train-lora", "lora init", name))
            start = torch.empty(parameter.shape, dtype=torch.float32)
            nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
            parameter.data.copy_(start)
        else:
            parameter.data.zero_()


def lora_parameters(transformer: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters, named as in peft's files: `transformer_blocks.0.attn1.to_q.lora_A.weight`."""
    return {
        name.replace(f".{ADAPTER}.", "."): parameter
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
