"""A LoRA file's header: which layers it changes, by which rank, how strongly. No weight is read, no torch."""

from __future__ import annotations

import json
import re
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

from ltxcore.models.errors import ModelError
from ltxcore.models.files.tensor_file import StoredTensor, read_tensor_file
from ltxcore.models.lora.names import (
    ALPHA,
    DORA_SCALE,
    LOHA,
    LOKR,
    MAGNITUDE,
    A,
    B,
    Naming,
    TensorName,
    parse,
    without_numbers,
)

Kind = Literal["lora", "dora", "lokr", "loha"]
ADAPTER_METADATA: Final = "lora_adapter_metadata"
"""The header key where diffusers looks for the adapter's rank, alpha and layers."""
SHOWN: Final = 3
_OF_TRANSFORMER: Final = "transformer."
_NUMBERS: Final = {"F64": "<d", "F32": "<f", "F16": "<e", "I64": "<q", "I32": "<i", "I16": "<h"}


class AdapterError(ValueError):
    """A file that is no adapter of this model."""


@dataclass(frozen=True)
class AdaptedLayer:
    """What a file holds for one layer."""

    name: str
    """In diffusers' names."""
    parts: Mapping[str, StoredTensor]
    """Part (`A`, `B`, `alpha`, `lokr_w1`, …) -> where it lies."""
    rank: int | None
    """Of a LoRA or DoRA; None for other kinds."""
    alpha: float | None
    """Of the layer's own tensor; None: there is none."""
    scale: float
    """What B·A is multiplied by: alpha / rank of the layer's own alpha, else the header's, else 1."""


@dataclass(frozen=True)
class LoraHeader:
    """A file with LoRA weights of an LTX-2 transformer."""

    path: Path
    layers: Mapping[str, AdaptedLayer]
    names: tuple[TensorName, ...]
    metadata: Mapping[str, str]
    tensors: Mapping[str, StoredTensor]
    """All of the file, by their stored names."""

    @cached_property
    def kind(self) -> Kind:
        """What the layers hold: LoRA, DoRA, LoKr or LoHa."""
        parts = {part for layer in self.layers.values() for part in layer.parts}
        if any(part.startswith(LOKR) for part in parts):
            return "lokr"
        if any(part.startswith(LOHA) for part in parts):
            return "loha"
        return "dora" if parts & {MAGNITUDE, DORA_SCALE} else "lora"

    @property
    def naming(self) -> Naming:
        """How most of its tensors are named."""
        return Counter(name.naming for name in self.names if name.naming is not None).most_common(1)[0][0]

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks of its layers, each once, the smallest first."""
        return tuple(sorted({layer.rank for layer in self.layers.values() if layer.rank is not None}))

    @property
    def scales(self) -> tuple[float, ...]:
        """What its layers' B·A is multiplied by, each once."""
        return tuple(sorted({layer.scale for layer in self.layers.values()}))

    @property
    def targets(self) -> tuple[str, ...]:
        """Its layers without the numbers of their blocks, each once."""
        return tuple(sorted({without_numbers(name) for name in self.layers}))

    @property
    def types(self) -> tuple[str, ...]:
        """The types of its factors, in safetensors' names."""
        return tuple(sorted({t.dtype for layer in self.layers.values() for t in layer.parts.values()}))


def read_header(path: Path) -> LoraHeader:
    """Read what a file says of itself.

    Raises:
        AdapterError: it cannot be read, is no safetensors file, or holds no LoRA of an LTX-2 transformer;
            says what was found.
    """
    if path.suffix != ".safetensors":
        raise AdapterError(f"{path} is not a .safetensors file; other formats run code when they are read")
    try:
        file = read_tensor_file(path)
    except ModelError as error:
        raise AdapterError(str(error)) from error
    names = tuple(parse(name) for name in file.tensors)
    foreign = [name.stored for name in names if name.naming is None]
    if foreign or not names:
        raise AdapterError(
            f"{path} must hold LoRA weights of an LTX-2 transformer; {len(foreign)} of its {len(names)} "
            f"tensors are something else: {', '.join(foreign[:SHOWN]) or 'it is empty'}"
        )
    parts: dict[str, dict[str, StoredTensor]] = {}
    for name in names:
        layer = parts.setdefault(name.module, {})
        if name.part in layer:
            raise AdapterError(f"{path} holds {name.part} of {name.module} twice, under two names")
        layer[name.part] = file.tensors[name.stored]
    config = adapter_config(file.metadata)
    layers = {name: _layer(path, name, found, config) for name, found in parts.items()}
    return LoraHeader(path, layers, names, file.metadata, file.tensors)


def adapter_config(metadata: Mapping[str, str]) -> dict[str, Any]:
    """peft's settings of the transformer's adapter, as diffusers writes them into a header; else empty."""
    try:
        found = json.loads(metadata.get(ADAPTER_METADATA, "{}"))
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        key.removeprefix(_OF_TRANSFORMER): value
        for key, value in found.items()
        if key.startswith(_OF_TRANSFORMER)
    }


def _layer(
    path: Path, name: str, parts: Mapping[str, StoredTensor], config: Mapping[str, Any]
) -> AdaptedLayer:
    factors = {A, B} & parts.keys()
    if not factors and not any(part.startswith((LOKR, LOHA)) for part in parts):
        raise AdapterError(f"{path} holds {', '.join(sorted(parts))} of {name}, but no factors of a LoRA")
    alpha = _number(parts[ALPHA]) if ALPHA in parts else None
    if not factors:
        return AdaptedLayer(name, parts, None, alpha, 1.0)
    for one, other in ((A, B), (B, A)):
        if one not in parts:
            raise AdapterError(f"{path} holds factor {other} of {name}, and not {one}; download it again")
    a, b = parts[A].shape, parts[B].shape
    if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
        raise AdapterError(
            f"{path}: the factors of {name} are A {list(a)} and B {list(b)}, which make no product; "
            "download it again"
        )
    rank = a[0]
    scale = _header_scale(name, rank, config) if alpha is None else alpha / rank
    return AdaptedLayer(name, parts, rank, alpha, scale)


def _header_scale(name: str, rank: int, config: Mapping[str, Any]) -> float:
    """alpha / rank as peft computes it from a header; 1 where it says nothing."""
    if "lora_alpha" not in config:
        return 1.0
    alpha = float(_by_pattern(name, config.get("alpha_pattern"), config["lora_alpha"]))
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _by_pattern(name: str, patterns: Any, otherwise: Any) -> Any:
    """The value of the pattern that fits a layer, in the order of the header, as peft chooses it."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return otherwise


def _number(tensor: StoredTensor) -> float:
    """A stored number."""
    if tensor.values != 1 or (tensor.dtype != "BF16" and tensor.dtype not in _NUMBERS):
        raise AdapterError(f"{tensor.file}: an alpha is {tensor.dtype} {list(tensor.shape)}, not a number")
    with tensor.file.open("rb") as file:
        file.seek(tensor.start)
        data = file.read(tensor.size_bytes)
    if tensor.dtype == "BF16":
        # The upper half of a float32.
        return float(struct.unpack("<f", b"\0\0" + data)[0])
    return float(struct.unpack(_NUMBERS[tensor.dtype], data)[0])
