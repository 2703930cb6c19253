"""LoKr and LoHa layers on a transformer, by peft: one description a layer, from a recipe or from a file.

LoKr (arXiv:2309.14859): the change of a weight is kron(w1, w2). LoHa (FedPara, arXiv:2108.06098): it is
(w1_a w1_b) * (w2_a w2_b), element by element.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

LOKR, LOHA = ".lokr_", ".hada_"


class NoFactorisation(ValueError):
    """Kronecker factors of a shape that peft does not make."""


@dataclass(frozen=True)
class LycorisLayer:
    """One adapted linear. Its change is scaled by alpha / rank."""

    algo: Literal["lokr", "loha"]
    rank: int
    alpha: float
    factor: int = -1
    decompose_both: bool = False
    rank_dropout: float = 0.0
    module_dropout: float = 0.0


def add_lycoris(transformer: Any, layers: Mapping[str, LycorisLayer], adapter_name: str) -> None:
    """Put the layers on a transformer, by the full names of its linears.

    peft has one factor a configuration, so layers that differ are added one kind after another.
    """
    from peft import inject_adapter_in_model

    alike: dict[LycorisLayer, list[str]] = defaultdict(list)
    for name, layer in layers.items():
        alike[layer].append(name)
    first, *others = (_peft_config(layer, names) for layer, names in alike.items())
    transformer.add_adapter(first, adapter_name=adapter_name)
    with warnings.catch_warnings():
        # That there is an adapter already is what is meant.
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
        for other in others:
            inject_adapter_in_model(other, transformer, adapter_name)
    transformer.set_adapter(adapter_name)


def _peft_config(layer: LycorisLayer, names: list[str]) -> Any:
    from peft import LoHaConfig, LoKrConfig

    common: dict[str, Any] = {
        "r": layer.rank,
        "alpha": layer.alpha,
        "rank_dropout": layer.rank_dropout,
        "module_dropout": layer.module_dropout,
        "target_modules": names,
    }
    if layer.algo == "loha":
        return LoHaConfig(**common)
    return LoKrConfig(**common, decompose_factor=layer.factor, decompose_both=layer.decompose_both)


def is_whole(linear: nn.Linear, rank: int, factor: int, decompose_both: bool) -> bool:
    """Whether peft holds both Kronecker factors of a linear as whole matrices at this rank."""
    from peft.tuners.lokr.layer import factorization

    (out_l, out_k), (in_m, in_n) = (
        factorization(size, factor) for size in (linear.out_features, linear.in_features)
    )
    return rank >= max(out_k, in_n) / 2 and not (decompose_both and rank < max(out_l, in_m) / 2)


def is_lycoris(names: Any) -> bool:
    """Whether weights of these names are a LoKr or a LoHa."""
    return any(LOKR in name or LOHA in name for name in names)


def load_lycoris(transformer: Any, weights: Mapping[str, torch.Tensor], adapter_name: str) -> None:
    """Put a LoKr or LoHa on a transformer. Its scale is in the weights already.

    Args:
        transformer: without adapter.
        weights: `<module>.lokr_w1` [a, b], `<module>.hada_w1_a` [out, rank], …, by the transformer's names.
        adapter_name: peft's name for it.

    Raises:
        NoFactorisation: the factors of a layer are of a shape that peft does not make.
        KeyError: a module is not in the transformer.
        ValueError: a tensor belongs to no layer, or one is missing.
    """
    parts: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    for name, tensor in weights.items():
        module, _, part = name.rpartition(".")
        parts[module][part] = tensor
    modules = dict(transformer.named_modules())
    add_lycoris(
        transformer,
        {name: _layer_of(name, modules[name], tensors) for name, tensors in parts.items()},
        adapter_name,
    )
    made = {
        name.removesuffix(f".{adapter_name}"): parameter
        for name, parameter in transformer.named_parameters()
        if name.endswith(f".{adapter_name}")
    }
    if made.keys() != weights.keys():
        odd = sorted(made.keys() ^ weights.keys())
        raise ValueError(f"{len(odd)} tensors are in the file or in the model alone, first {odd[0]}")
    with torch.no_grad():
        for name, parameter in made.items():
            parameter.data = weights[name].to(parameter.device, torch.float32)


def _layer_of(name: str, linear: nn.Linear, tensors: Mapping[str, torch.Tensor]) -> LycorisLayer:
    if "hada_w1_a" in tensors:
        rank = tensors["hada_w1_a"].shape[1]
        return LycorisLayer("loha", rank, float(rank))
    from peft.tuners.lokr.layer import factorization

    out_l, in_m = _edges(tensors, "lokr_w1")
    out_k, in_n = _edges(tensors, "lokr_w2")
    for factor in (out_l, in_m, -1):
        if (factorization(linear.out_features, factor), factorization(linear.in_features, factor)) == (
            (out_l, out_k),
            (in_m, in_n),
        ):
            break
    else:
        raise NoFactorisation(
            f"{name}: peft makes no Kronecker factors {out_l}x{in_m} and {out_k}x{in_n} of "
            f"{linear.out_features}x{linear.in_features}"
        )
    halved = tensors.get("lokr_w2_a", tensors.get("lokr_w1_a"))
    rank = 2 * max(out_k, in_n) if halved is None else halved.shape[1]
    return LycorisLayer("lokr", rank, float(rank), factor, decompose_both="lokr_w1_a" in tensors)


def _edges(tensors: Mapping[str, torch.Tensor], name: str) -> tuple[int, int]:
    whole = tensors.get(name)
    if whole is not None:
        return whole.shape[0], whole.shape[1]
    return tensors[f"{name}_a"].shape[0], tensors[f"{name}_b"].shape[1]
