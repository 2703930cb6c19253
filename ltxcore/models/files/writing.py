"""Writing safetensors files: tensor by tensor where they are large, and in the same bytes each time.

`safetensors.torch.save_file` takes all tensors at once; for weights that are made while they are written
that would be the whole file. It also orders the metadata by chance, differently in each process.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from ltxcore.models.files.reading import DTYPES
from ltxcore.models.files.tensor_file import LENGTH_BYTES, METADATA
from ltxcore.store.blobs import sync_directory

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ALIGNMENT = 8


@dataclass(frozen=True)
class Part:
    """A tensor to be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Pending:
    """Tensors that are made together, when it is their turn."""

    parts: tuple[Part, ...]
    make: Callable[[], Sequence[torch.Tensor]]


def present_tensor(name: str, tensor: torch.Tensor) -> Pending:
    """A tensor of any shape that is in memory already."""
    return Pending((Part(name, tensor.dtype, tuple(tensor.shape)),), lambda: [tensor])


def write_tensor_file(
    path: Path, pending: Sequence[Pending], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, whole or not at all.

    Raises:
        ValueError: a tensor came out in another type or shape than was said.
    """
    header = _header([part for item in pending for part in item.parts], metadata or {"format": "pt"})
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(len(header).to_bytes(LENGTH_BYTES, "little") + header)
            for item in pending:
                for part, tensor in zip(item.parts, item.make(), strict=True):
                    if (tensor.dtype, tuple(tensor.shape)) != (part.dtype, part.shape):
                        raise ValueError(
                            f"{part.name} is {tensor.dtype} {list(tensor.shape)}, and was announced as "
                            f"{part.dtype} {list(part.shape)}"
                        )
                    file.write(memoryview(_bytes(tensor).numpy()))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def tensor_bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """Tensors of any shape as a safetensors file; equal tensors and metadata give equal bytes."""
    data = save(dict(tensors), metadata=dict(metadata))
    begin = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")
    header = json.loads(data[LENGTH_BYTES:begin])
    header[METADATA] = dict(sorted(header[METADATA].items()))
    text = _padded(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return b"".join((len(text).to_bytes(LENGTH_BYTES, "little"), text, memoryview(data)[begin:]))


def _header(parts: Sequence[Part], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {METADATA: dict(metadata)}
    offset = 0
    for part in parts:
        size = part.dtype.itemsize
        for length in part.shape:
            size *= length
        entries[part.name] = {
            "dtype": _NAMES[part.dtype],
            "shape": list(part.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    return _padded(json.dumps(entries).encode())


def _padded(header: bytes) -> bytes:
    """The header, so long that the weights begin at a multiple of eight."""
    return header + b" " * (-len(header) % _ALIGNMENT)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
