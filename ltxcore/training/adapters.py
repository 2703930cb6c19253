"""What peft is asked for: a LoRA, an rsLoRA, a DoRA, a LoKr or a LoHa, each started from its own seeds.

And the way back: the trained adapter as weights and scales, with all that a file of it needs of the base.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ltxcore.config.lora_settings import LoraSettings
from ltxcore.config.lycoris_settings import LayerChange, LycorisSettings
from ltxcore.models.lycoris import LycorisLayer, add_lycoris, is_whole
from ltxcore.store.fingerprint import derive_seed
from ltxcore.training.shares import whole

ADAPTER = "default"
MAGNITUDE = "lora_magnitude_vector.weight"
ZEROS = ("lora_B.weight", "lokr_w2", "lokr_w2_b", "hada_w2_b")
"""The factor that makes a fresh adapter change nothing. (LoKr: lokr_w2_b where w2 has a low rank.)"""

ANY_WIDTH = 1 << 20
"""A rank at which peft keeps both factors of a LoKr whole."""
Reading = Callable[[str], AbstractContextManager[None]]
"""Takes a module's name; within, its base weight may be read."""
_MARKERS = (".lora_", ".lokr_", ".hada_")


@dataclass(frozen=True)
class Adapter:
    """A trained adapter, away from its model."""

    weights: dict[str, torch.Tensor]
    """By the names of `lora_parameters`."""
    scales: dict[str, float]
    """Module -> what its product is multiplied with."""
    lengths: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    """DoRA: module -> the lengths of the rows of W and of W + scale·BA, float32 [out] each."""


def inject(transformer: Any, settings: LoraSettings, targets: Sequence[str]) -> None:
    """Put an adapter of the settings' kind on the targets, with whatever values peft gives it."""
    if settings.lycoris is not None:
        modules = dict(transformer.named_modules())
        layers = {name: _lycoris_layer(name, modules, settings.lycoris) for name in targets}
        add_lycoris(transformer, layers, ADAPTER)
        return
    from peft import LoraConfig

    transformer.add_adapter(
        LoraConfig(
            r=settings.lora_rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.lora_dropout,
            use_rslora=settings.use_rslora,
            use_dora=settings.use_dora,
            target_modules=list(targets),
        ),
        adapter_name=ADAPTER,
    )
    if settings.use_dora:
        from ltxcore.training.dora import replace_peft_layers

        replace_peft_layers(transformer, ADAPTER)


def _lycoris_layer(name: str, modules: Mapping[str, nn.Module], settings: LycorisSettings) -> LycorisLayer:
    linear = modules[name]
    change = _change_for(name, modules, settings)
    rank = change.linear_dim or settings.linear_dim
    alpha = (change.linear_alpha or settings.linear_alpha) * settings.multiplier
    factor = change.factor or settings.factor
    rows, modules_too = settings.rank_dropout, settings.module_dropout
    if settings.algo == "loha":
        return LycorisLayer("loha", rank, alpha, rank_dropout=rows, module_dropout=modules_too)
    if settings.full_matrix:
        rank = ANY_WIDTH
    if is_whole(linear, rank, factor, settings.decompose_both):
        # LyCORIS scales by one where no factor has a low rank: there is no rank to scale by.
        alpha = rank * settings.multiplier
    return LycorisLayer("lokr", rank, alpha, factor, settings.decompose_both, rows, modules_too)


def _change_for(name: str, modules: Mapping[str, nn.Module], settings: LycorisSettings) -> LayerChange:
    """What the preset changes for the nearest module above of a class that it names."""
    changes = {} if settings.apply_preset is None else settings.apply_preset.module_algo_map
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        above = modules[".".join(parts[:length])]
        for kind, change in changes.items():
            if is_of_class(above, kind):
                return change
    return LayerChange()


def is_of_class(module: nn.Module, kind: str) -> bool:
    """Whether a module is of a class; LTX-2's own prefix may be left out: `Attention`."""
    return type(module).__name__ in (kind, f"LTX2{kind}")


def in_place(name: str) -> AbstractContextManager[None]:
    """The reading of weights that are where they belong."""
    return nullcontext()


@torch.no_grad()
def start(
    transformer: nn.Module, parameters: Mapping[str, nn.Parameter], seed: int, reading: Reading = in_place
) -> None:
    """Give a fresh adapter its first values, in float32: it changes nothing yet.

    Each parameter is drawn from its own seed, Kaiming uniform as in LoRA, so that a layer's start does not
    depend on which others are trained. DoRA's lengths are those of the base weight's rows.
    """
    modules = dict(transformer.named_modules())
    for name, parameter in parameters.items():
        parameter.data = parameter.data.float()
        if name.endswith(MAGNITUDE):
            module = name.removesuffix(f".{MAGNITUDE}")
            with reading(module):
                parameter.copy_(_base_weight(modules[module]).norm(dim=1))
        elif name.endswith(ZEROS):
            parameter.zero_()
        else:
            generator = torch.Generator().manual_seed(derive_seed(seed, "train-lora", "lora init", name))
            drawn = torch.empty(parameter.shape, dtype=torch.float32)
            nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
            parameter.copy_(drawn)


def _base_weight(layer: Any) -> torch.Tensor:
    return whole(frozen_weight(layer.get_base_layer()))


def frozen_weight(linear: nn.Module) -> torch.Tensor:
    """The weight of a base linear as float32 [out, in], from whatever it is held in."""
    from peft.utils.integrations import dequantize_module_weight

    weight = dequantize_module_weight(linear)
    if is_traceable_wrapper_subclass(weight):
        weight = weight.dequantize()
    return weight.detach().float()


@torch.no_grad()
def take_adapter(
    transformer: nn.Module, weights: Mapping[str, torch.Tensor], reading: Reading = in_place
) -> Adapter:
    """The adapter of a transformer with these weights: its own, or averages of them.

    Where processes share them out, all of them ask at once.

    Args:
        transformer: with the adapter; its base weights are read for a DoRA.
        weights: by the names of `lora_parameters`.
        reading: how base weights are read that may be away.
    """
    taken = {name: whole(tensor.detach()).float().cpu().contiguous() for name, tensor in weights.items()}
    modules = dict(transformer.named_modules())
    names = sorted({name[: name.index(marker)] for name in taken for marker in _MARKERS if marker in name})
    scales = {name: float(modules[name].scaling[ADAPTER]) for name in names}
    lengths = {}
    for name in names:
        if f"{name}.{MAGNITUDE}" in taken:
            with reading(name):
                weight = _base_weight(modules[name]).cpu()
            change = taken[f"{name}.lora_B.weight"] @ taken[f"{name}.lora_A.weight"]
            lengths[name] = weight.norm(dim=1), (weight + scales[name] * change).norm(dim=1)
    return Adapter(taken, scales, lengths)
