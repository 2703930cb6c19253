"""The adapter: which modules get a LoRA, and its weights in the transformer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from ltxcore.config.conditioning_settings import Modality
from ltxcore.config.lora_settings import LoraSettings
from ltxcore.training.adapters import ADAPTER, Reading, in_place, inject, is_of_class, start
from ltxcore.training.shards import spread
from ltxcore.training.targets import (
    default_targets,
    fits,
    require_classes,
    require_targets,
    without_block,
)


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
        require_targets(linears, suffixes)
    return tuple(name for name in linears if any(fits(name, suffix) for suffix in wanted))


def preset_modules(
    transformer: nn.Module, classes: Sequence[str], with_audio: bool, with_video: bool = True
) -> tuple[str, ...]:
    """Full names of the linear layers inside modules of some classes, where a loss reaches them.

    Raises:
        UnknownTarget: the blocks have no module of a class; names those that they have.
    """
    blocks = {n: m for n, m in transformer.named_modules() if n.startswith("transformer_blocks.")}
    require_classes({type(module).__name__ for module in blocks.values()}, classes)
    inside = [n for n, m in blocks.items() if any(is_of_class(m, kind) for kind in classes)]
    return tuple(
        name
        for name, module in blocks.items()
        if isinstance(module, nn.Linear)
        and any(name.startswith(f"{above}.") for above in inside)
        and _is_reached(without_block(name), with_audio, with_video)
    )


def _is_reached(layer: str, with_audio: bool, with_video: bool) -> bool:
    if "_to_" in layer.partition(".")[0]:
        return with_audio and with_video
    return with_audio if layer.startswith("audio_") else with_video


def add_lora(
    transformer: nn.Module,
    settings: LoraSettings,
    targets: Sequence[str],
    seed: int,
    reading: Reading = in_place,
) -> None:
    """Freeze the transformer and add a trainable adapter, float32 over a base of any dtype.

    Its first values are drawn layer by layer from the seed, see `start`; the first forward is the base
    model's. `reading` brings base weights into place while they are read.
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
    """Overwrite trained parameters, on their devices, by weights of the same names and shapes [...].

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
