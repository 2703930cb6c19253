"""A safetensors file's header: what it holds and where, without reading a weight and without torch.

The layout: eight bytes with the header's length, the header as JSON, then the tensors' bytes end to end.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltxcore.models.errors import ModelError

LENGTH_BYTES = 8
# safetensors' own limit: a longer header is another kind of file.
MAX_HEADER_BYTES = 100 << 20
METADATA = "__metadata__"
VALUE_BYTES: Mapping[str, int] = {
    "F64": 8,
    "I64": 8,
    "F32": 4,
    "I32": 4,
    "BF16": 2,
    "F16": 2,
    "I16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U8": 1,
    "I8": 1,
    "BOOL": 1,
}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor's bytes lie and how to read them."""

    file: Path
    dtype: str
    """In safetensors' names: BF16, F32, F8_E4M3, U8, ..."""
    shape: tuple[int, ...]
    start: int
    """Offset of its first byte in the file."""
    size_bytes: int

    @property
    def values(self) -> int:
        """How many values it has."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file that is whole: every tensor that the header names lies inside it."""

    path: Path
    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]


def read_tensor_file(path: Path) -> TensorFile:
    """Read the header of a safetensors file.

    Raises:
        ModelError: the file cannot be read, is of another kind, or is cut short.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(LENGTH_BYTES)
            length = struct.unpack("<Q", first)[0] if len(first) == LENGTH_BYTES else 0
            text = file.read(length) if 2 <= length <= MAX_HEADER_BYTES else b""
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}; check the path and its rights") from error
    if first.startswith(b"version "):
        raise ModelError(f"{path} is a git-lfs pointer of {size} bytes, not the weights; run `git lfs pull`")
    if not text.startswith(b"{"):
        raise ModelError(
            f"{path} is not a safetensors file ({size} bytes, beginning {first[:8]!r}); download it again, "
            "and give weights as .safetensors only"
        )
    if len(text) < length:
        raise _truncated(path, size, LENGTH_BYTES + length)
    try:
        header = json.loads(text)
        metadata = header.pop(METADATA, {})
        begin = LENGTH_BYTES + length
        tensors = {name: _stored(path, name, entry, begin) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"the header of {path} is not a safetensors header: {error}; download it again"
        ) from error
    end = max((tensor.start + tensor.size_bytes for tensor in tensors.values()), default=begin)
    if end > size:
        raise _truncated(path, size, end)
    return TensorFile(path, tensors, metadata)


def _stored(path: Path, name: str, entry: Any, begin: int) -> StoredTensor:
    start, end = entry["data_offsets"]
    tensor = StoredTensor(path, entry["dtype"], tuple(entry["shape"]), begin + start, end - start)
    width = VALUE_BYTES.get(tensor.dtype)
    if width is None:
        raise ValueError(f"{name} is of the unknown type {tensor.dtype}")
    if tensor.size_bytes != width * tensor.values:
        raise ValueError(f"{name} takes {tensor.size_bytes} bytes, its shape {width * tensor.values}")
    return tensor


def _truncated(path: Path, size: int, expected: int) -> ModelError:
    return ModelError(
        f"{path} is cut short: it has {size:,} bytes and its header says {expected:,}; download it again"
    )
