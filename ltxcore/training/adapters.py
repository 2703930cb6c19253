"""Adds adapters by peft: a LoRA, an rsLoRA, a DoRA, a LoKr or a LoHa, each initialised from its own seeds.

And reads them back: the trained adapter as weights and scales, with what its files need of the base.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ltxcore.config.lora_settings import LoraSettings
from ltxcore.config.lycoris_settings import LayerChange, LycorisSettings
from ltxcore.models.lycoris import LycorisLayer, add_lycoris, is_whole
from ltxcore.store.fingerprint import derive_seed
from ltxcore.training.base_weights import _base_weight
from ltxcore.training.lean_block import lean_blocks
from ltxcore.training.lora_layer import replace_forward
from ltxcore.training.shards import whole
from ltxcore.training.targets import class_is

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
    """Module -> what its product is multiplied by."""
    lengths: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    """DoRA: module -> the lengths of the rows of W and of W + scale·BA, float32 [out] each."""


def inject(transformer: Any, settings: LoraSettings, targets: Sequence[str]) -> None:
    """Put an adapter of the settings' kind on the targets, with whatever values peft gives it."""
    if settings.lycoris is not None:
        modules = dict(transformer.named_modules())
        layers = {name: _lycoris_layer(name, modules, settings.lycoris) for name in targets}
        add_lycoris(transformer, layers, ADAPTER)
    else:
        _add_peft_lora(transformer, settings, targets)
    replace_forward(transformer, ADAPTER)
    lean_blocks(transformer)


def _add_peft_lora(transformer: Any, settings: LoraSettings, targets: Sequence[str]) -> None:
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
    return class_is(type(module).__name__, kind)


def in_place(name: str) -> AbstractContextManager[None]:
    """Reads weights that are in place already."""
    return nullcontext()


@torch.no_grad()
def start(
    transformer: nn.Module, parameters: Mapping[str, nn.Parameter], seed: int, reading: Reading = in_place
) -> None:
    """Initialise a new adapter in float32; it changes nothing yet.

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


@torch.no_grad()
def take_adapter(
    transformer: nn.Module, weights: Mapping[str, torch.Tensor], reading: Reading = in_place
) -> Adapter:
    """The adapter of a transformer with these weights: its own, or averages of them.

    Where processes shard the weights, all of them must call this together.

    Args:
        transformer: with the adapter; its base weights are read for a DoRA.
        weights: by the names of `lora_parameters`, e.g. lora_A [rank, in] and lora_B [out, rank].
        reading: brings base weights into place while they are read.
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
