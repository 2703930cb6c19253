"""Derives LoRA files from others: renamed for another program, summed, or of a smaller rank. Each is written
whole.

The new file keeps what the headers said, with a line on what was done to which file. Layers are read, changed
and written one at a time, so that a large file needs no memory of its size.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import torch

from ltxcore.models.files.reading import DTYPES
from ltxcore.models.files.writing import Part, Pending, write_tensor_file
from ltxcore.models.lora.base_version import OWN_KEY, base_version
from ltxcore.models.lora.description import HISTORY, history_of
from ltxcore.models.lora.factors import Factors, LoraReader, Loss, open_lora, require_plain, shrunk, total
from ltxcore.models.lora.header import ADAPTER_METADATA, AdapterError, LoraHeader
from ltxcore.models.lora.names import ALPHA, COMFYUI, DIFFUSERS, A, B, reference_name
from ltxcore.store.fingerprint import hash_file

Target = Literal["comfyui", "diffusers"]
TARGETS: Final[tuple[Target, ...]] = ("comfyui", "diffusers")
_RANK_KEYS: Final = ("rank", "alpha", "ss_network_dim", "ss_network_alpha", ADAPTER_METADATA)
"""Header keys that say what a changed file no longer is."""
FACTORS: Final = ((A, "lora_A.weight"), (B, "lora_B.weight"))


@dataclass(frozen=True)
class Edited:
    """A file that was written."""

    path: Path
    target: Target
    ranks: tuple[int, ...]
    layers: int
    loss: Loss
    """What a smaller rank left out; nothing where the sum is exact."""


def target_of(header: LoraHeader) -> Target:
    """The naming of a file that goes on as it is: diffusers' stays, all others are ComfyUI's."""
    return "diffusers" if header.naming == "diffusers" else "comfyui"


def convert(header: LoraHeader, output: Path, target: Target) -> Edited:
    """Rename a file's layers for another program.

    For ComfyUI the scale is multiplied into B, and all is bf16. For diffusers the factors stay as they are,
    and the header says rank and alpha.

    Raises:
        AdapterError: it is a DoRA, or a LoKr or LoHa with alpha tensors.
    """
    _require_new(output, [header])
    if header.kind in ("lokr", "loha"):
        return _rename(header, output, target)
    require_plain(header, "converted: its lengths need the base's weights (training writes both files)")
    with open_lora(header) as reader:
        pending = []
        for name in sorted(header.layers):
            if target == "diffusers":
                pending += [_kept(reader, name, part, written, target) for part, written in FACTORS]
            else:
                pending += _pending(name, _shapes(header, name), partial(reader.factors, name), target)
        metadata = _metadata([header], {"operation": "convert", "to": target}, [1.0])
        if target == "diffusers":
            metadata[ADAPTER_METADATA] = _adapter_metadata(header)
        if len(header.ranks) == 1:
            metadata["rank"] = str(header.ranks[0])
        write_tensor_file(output, pending, metadata)
    return Edited(output, target, header.ranks, len(header.layers), Loss())


def merge(
    headers: Sequence[LoraHeader],
    weights: Sequence[float],
    output: Path,
    target: Target,
    rank: int | None = None,
) -> Edited:
    """Write the weighted sum of LoRAs.

    Args:
        headers: of the files.
        weights: as many.
        output: a new file.
        target: whose names it has.
        rank: None: the sum of the ranks, and exact. Else the best approximation of this rank.

    Raises:
        AdapterError: they are of versions that contradict each other, or of shapes; or of a kind that has no
            sum.
    """
    _require_new(output, headers)
    for header in headers:
        require_plain(header, "merged")
    _require_alike(headers)
    done = {"operation": "merge", "rank": "the sum" if rank is None else rank}
    return _sum(headers, weights, output, target, rank, done)


def resize(header: LoraHeader, output: Path, target: Target, rank: int) -> Edited:
    """Write a LoRA's best approximation of a smaller rank. Layers of a smaller one keep theirs.

    Raises:
        AdapterError: it is of a kind that has no such approximation.
    """
    _require_new(output, [header])
    require_plain(header, "resized")
    return _sum([header], [1.0], output, target, rank, {"operation": "resize", "rank": rank})


def _sum(
    headers: Sequence[LoraHeader],
    weights: Sequence[float],
    output: Path,
    target: Target,
    rank: int | None,
    done: Mapping[str, Any],
) -> Edited:
    loss = Loss()
    with ExitStack() as stack:
        readers = [stack.enter_context(open_lora(header)) for header in headers]

        def factors(name: str) -> Factors:
            there = [
                (weight, reader.factors(name))
                for weight, reader in zip(weights, readers, strict=True)
                if name in reader.header.layers
            ]
            found = total(there)
            return found if rank is None else shrunk(found, rank, name, loss)

        ranks: set[int] = set()
        pending: list[Pending] = []
        for name in sorted({name for header in headers for name in header.layers}):
            in_features, out_features, whole = _summed_shape(headers, name)
            kept = whole if rank is None else min(rank, whole, in_features, out_features)
            ranks.add(kept)
            pending += _pending(name, (kept, in_features, out_features), partial(factors, name), target)
        metadata = _metadata(headers, done, weights)
        if len(ranks) == 1:
            metadata["rank"] = str(next(iter(ranks)))
        write_tensor_file(output, pending, metadata)
    return Edited(output, target, tuple(sorted(ranks)), len(pending), loss)


def _summed_shape(headers: Sequence[LoraHeader], name: str) -> tuple[int, int, int]:
    shapes = [_shapes(header, name) for header in headers if name in header.layers]
    return shapes[0][1], shapes[0][2], sum(rank for rank, _, _ in shapes)


def _shapes(header: LoraHeader, name: str) -> tuple[int, int, int]:
    """rank, in, out of a layer."""
    parts = header.layers[name].parts
    return parts[A].shape[0], parts[A].shape[1], parts[B].shape[0]


def _pending(
    name: str, shape: tuple[int, int, int], make: Callable[[], Factors], target: Target
) -> list[Pending]:
    rank, in_features, out_features = shape
    dtype = torch.bfloat16 if target == "comfyui" else torch.float32
    parts = (
        Part(stored_name(name, FACTORS[0][1], target), dtype, (rank, in_features)),
        Part(stored_name(name, FACTORS[1][1], target), dtype, (out_features, rank)),
    )

    def tensors() -> list[torch.Tensor]:
        found = make()
        return [found.a.to(dtype), found.b.to(dtype)]

    return [Pending(parts, tensors)]


def _kept(reader: LoraReader, name: str, part: str, written: str, target: Target) -> Pending:
    """A tensor as it is stored, under another name."""
    stored = reader.header.layers[name].parts[part]
    announced = Part(stored_name(name, written, target), DTYPES[stored.dtype], stored.shape)
    return Pending((announced,), lambda: [reader.tensor(name, part)])


def stored_name(layer: str, part: str, target: Target) -> str:
    """A tensor's name in a file for a program."""
    if target == "diffusers":
        return f"{DIFFUSERS}{layer}.{part}"
    return f"{COMFYUI}{reference_name(layer)}.{part}"


def _rename(header: LoraHeader, output: Path, target: Target) -> Edited:
    """A LoKr or LoHa under other names: its scale is in its factors."""
    if any(ALPHA in layer.parts for layer in header.layers.values()):
        raise AdapterError(
            f"{header.path} is a {header.kind} with alpha tensors, which diffusers' names have no place for; "
            "load it in ComfyUI as it is"
        )
    with open_lora(header) as reader:
        pending = [_kept(reader, name.module, name.part, name.written, target) for name in header.names]
        metadata = _metadata([header], {"operation": "convert", "to": target}, [1.0])
        write_tensor_file(output, pending, metadata)
    return Edited(output, target, (), len(header.layers), Loss())


def _adapter_metadata(header: LoraHeader) -> str:
    """Rank and alpha for peft, with a pattern for each layer that differs from most."""
    layers = header.layers.values()
    ranks = Counter(layer.rank or 1 for layer in layers)
    rank = ranks.most_common(1)[0][0]
    # alpha / rank is a layer's scale.
    alphas = {layer.name: layer.scale * (layer.rank or 1) for layer in layers}
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    settings = {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {f"^{x.name}": x.rank for x in layers if x.rank != rank},
        "alpha_pattern": {f"^{name}": found for name, found in alphas.items() if found != alpha},
        "target_modules": sorted(header.layers),
    }
    return json.dumps({f"{DIFFUSERS}{key}": value for key, value in settings.items()}, sort_keys=True)


def _require_alike(headers: Sequence[LoraHeader]) -> None:
    """Refuse to add LoRAs of different versions, or of models of different widths.

    Raises:
        AdapterError: names both.
    """
    first, found = headers[0], base_version(headers[0])
    for header in headers[1:]:
        other = base_version(header)
        if found.possible and other.possible and not set(found.possible) & set(other.possible):
            raise AdapterError(
                f"{first.path} is a LoRA of LTX-{' or '.join(found.possible)}, and {header.path} one of "
                f"LTX-{' or '.join(other.possible)}; their sum would be of no model"
            )
        for name in first.layers.keys() & header.layers.keys():
            if _shapes(first, name)[1:] != _shapes(header, name)[1:]:
                raise AdapterError(
                    f"{name} is {list(_shapes(first, name)[1:])} in {first.path} and "
                    f"{list(_shapes(header, name)[1:])} in {header.path}; they are of different models"
                )


def _require_new(output: Path, headers: Sequence[LoraHeader]) -> None:
    if output.suffix != ".safetensors":
        raise AdapterError(f"the output {output} must end in .safetensors")
    if output.exists():
        raise AdapterError(f"{output} is there already; name another --output, or remove it first")


def _metadata(
    headers: Sequence[LoraHeader], done: Mapping[str, Any], weights: Sequence[float]
) -> dict[str, str]:
    """The headers' lines, as far as they agree and still hold, and a line on what was done."""
    kept = {}
    for key in sorted({key for header in headers for key in header.metadata}):
        values = dict.fromkeys(header.metadata[key] for header in headers if key in header.metadata)
        everywhere = all(key in header.metadata for header in headers)
        if key in _RANK_KEYS or key == HISTORY:
            continue
        if len(values) == 1 and (everywhere or key != OWN_KEY):
            kept[key] = next(iter(values))
        elif key == "trigger":
            kept[key] = ", ".join(value for value in values if value)
    before = [step for header in headers for step in history_of(header.metadata)]
    sources = [
        {"file": header.path.name, "sha256": hash_file(header.path), "weight": weight}
        for header, weight in zip(headers, weights, strict=True)
    ]
    step = {**done, "of": sources}
    return {**kept, "format": "pt", HISTORY: json.dumps([*before, step], sort_keys=True)}
