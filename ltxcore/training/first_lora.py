"""A fresh adapter takes over a LoRA: exactly where the ranks allow it, else by the nearest one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ltxcore.config.lora_settings import LoraSettings
from ltxcore.models.lora.factors import Factors, LoraReader, Loss, open_lora, padded, shrunk
from ltxcore.models.lora.header import AdapterError, LoraHeader
from ltxcore.models.lora.names import MAGNITUDE as LENGTHS
from ltxcore.models.lora.names import A, B
from ltxcore.training.adapters import MAGNITUDE, Reading, in_place
from ltxcore.training.base_weights import _base_weight

logger = logging.getLogger(__name__)


@torch.no_grad()
def take_over(
    transformer: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    settings: LoraSettings,
    header: LoraHeader,
    reading: Reading = in_place,
) -> str:
    """Give a fresh adapter the change of a LoRA file. Layers that the file lacks keep their beginning.

    The change is the file's, whatever its alpha is: the factors are scaled to the recipe's. A file of a
    smaller rank is taken exactly, the further rows beginning as in a fresh adapter; of a larger one the
    nearest LoRA.

    Args:
        transformer: with the adapter.
        parameters: `lora_parameters` of it, in float32, as `start` has left them.
        settings: of the adapter.
        header: of the file.
        reading: how base weights are read that may be away: for a DoRA.

    Returns:
        What was done, in a sentence.

    Raises:
        AdapterError: the file has a layer that the adapter lacks.
    """
    missing = [name for name in header.layers if f"{name}.lora_A.weight" not in parameters]
    if missing:
        raise AdapterError(
            f"{header.path} changes {missing[0]}, which this training does not train and would drop; name "
            "its layers in lora.lora_targets"
        )
    loss, modules = Loss(), dict(transformer.named_modules())
    with open_lora(header) as reader:
        for name in header.layers:
            a, b = (parameters[f"{name}.lora_{factor}.weight"] for factor in "AB")
            found = _scaled(reader, name, settings, a, loss)
            a.copy_(found.a)
            b.copy_(found.b)
            lengths = parameters.get(f"{name}.{MAGNITUDE}")
            if lengths is not None:
                lengths.copy_(_lengths(reader, name, found, settings.scale, modules, reading))
    sentence = _sentence(header, len(parameters), settings, loss)
    logger.info("%s", sentence)
    return sentence


def _scaled(
    reader: LoraReader, name: str, settings: LoraSettings, start: torch.Tensor, loss: Loss
) -> Factors:
    """A layer's factors at the recipe's rank, whose product times the recipe's scale is the file's change."""
    # One quotient: where the scales are equal it is 1, and the factors are the file's to the bit.
    share = reader.header.layers[name].scale / settings.scale
    found = Factors(reader.tensor(name, A).float(), reader.tensor(name, B).float() * share)
    rank = found.a.shape[0]
    if rank > settings.lora_rank:
        found = shrunk(found, settings.lora_rank, name, loss)
    if found.a.shape[0] < settings.lora_rank:
        found = padded(found, start.detach().cpu())
    return found


def _lengths(
    reader: LoraReader,
    name: str,
    found: Factors,
    scale: float,
    modules: Mapping[str, Any],
    reading: Reading,
) -> torch.Tensor:
    """A DoRA's lengths: the file's, or those that leave a plain LoRA's change as it is."""
    if LENGTHS in reader.header.layers[name].parts:
        return reader.tensor(name, LENGTHS).float().flatten()
    with reading(name):
        weight = _base_weight(modules[name]).cpu()
    return (weight + scale * (found.b @ found.a)).norm(dim=1)


def _sentence(header: LoraHeader, parameters: int, settings: LoraSettings, loss: Loss) -> str:
    ranks = ", ".join(map(str, header.ranks))
    begun = f"begins with {header.path.name}: {len(header.layers)} layers of rank {ranks}"
    if loss.by_layer:
        return (
            f"{begun}, brought to rank {settings.lora_rank} by singular values, with a relative error of "
            f"{loss.relative:.2%}"
        )
    if header.ranks != (settings.lora_rank,):
        return f"{begun}, taken exactly into rank {settings.lora_rank}"
    return f"{begun}, as they are"
