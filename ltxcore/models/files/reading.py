"""Reads weights from disk to their final place, one at a time, through one buffer.

Files are read, not mapped: mapped pages count as the process's memory while the map exists, so the peak would
be the whole file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import torch

from ltxcore.models.errors import ModelError
from ltxcore.models.files.scaled_values import decode_fp4, decode_fp8
from ltxcore.models.files.tensor_file import StoredTensor
from ltxcore.models.files.weights import FP8, Weight, Weights

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class Reader:
    """Reads weights; use it as a context, which closes the files and lets go of the buffer."""

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        self._files: dict[Path, BinaryIO] = {}
        self._buffer = torch.empty(0, dtype=torch.uint8)

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()
        self._buffer = torch.empty(0, dtype=torch.uint8)

    def read(self, weight: Weight, dtype: torch.dtype | None = None) -> torch.Tensor:
        """A weight on the reader's device, in the shape that the file gives it, e.g. [out, in] of a linear.

        Args:
            dtype: what floating-point values become; None leaves plain values as they are stored.

        Raises:
            ModelError: the file became shorter, or the weight is scaled and no type was given for it.
        """
        if weight.scale is not None or (dtype is not None and weight.values.dtype == FP8):
            return self._decoded(weight, dtype)
        stored = DTYPES[weight.values.dtype]
        wanted = stored if dtype is None or not stored.is_floating_point else dtype
        if wanted == stored and self._device.type == "cpu":
            tensor = torch.empty(weight.shape, dtype=stored)
            self._fill(weight.values, tensor.view(-1).view(torch.uint8))
            return tensor
        return self._staged(weight.values).to(self._device, wanted, copy=True)

    def read_rows(self, weight: Weight, rows: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Some rows [n, ...] of a matrix on the reader's device; only their bytes are read.

        Raises:
            ModelError: as `read`.
        """
        if weight.scale is not None or weight.values.dtype == FP8:
            return self.read(weight, dtype)[list(rows)]
        stored = weight.values
        size = stored.size_bytes // weight.shape[0]
        found = torch.empty(len(rows), *weight.shape[1:], dtype=DTYPES[stored.dtype])
        for place, row in zip(found, rows, strict=True):
            part = StoredTensor(stored.file, stored.dtype, weight.shape[1:], stored.start + row * size, size)
            self._fill(part, place.view(torch.uint8))
        return found.to(self._device, dtype)

    def _decoded(self, weight: Weight, dtype: torch.dtype | None) -> torch.Tensor:
        if dtype is None:
            raise ModelError(f"{weight.values.file}: fp8 and fp4 weights need a type to be decoded to")
        scale = 1.0 if weight.scale is None else float(self._staged(weight.scale).float())
        if weight.block_scales is None:
            return decode_fp8(self._staged(weight.values).to(self._device), scale, dtype)
        block_scales = self._staged(weight.block_scales).to(self._device, copy=True)
        return decode_fp4(self._staged(weight.values).to(self._device), block_scales, scale, dtype)

    def _staged(self, tensor: StoredTensor) -> torch.Tensor:
        """The stored values in the buffer, valid until the next read."""
        if self._buffer.numel() < tensor.size_bytes:
            self._buffer = torch.empty(0, dtype=torch.uint8)
            self._buffer = torch.empty(tensor.size_bytes, dtype=torch.uint8)
        place = self._buffer[: tensor.size_bytes]
        self._fill(tensor, place)
        return place.view(DTYPES[tensor.dtype]).view(tensor.shape)

    def _fill(self, tensor: StoredTensor, place: torch.Tensor) -> None:
        file = self._files.get(tensor.file)
        if file is None:
            file = self._files[tensor.file] = tensor.file.open("rb", buffering=0)
        file.seek(tensor.start)
        target = memoryview(place.numpy())
        done = 0
        while done < tensor.size_bytes:
            count = file.readinto(target[done:])  # type: ignore[attr-defined]
            if not count:
                raise ModelError(f"{tensor.file} became shorter while it was read; download it again")
            done += count


def in_file_order(weights: Weights) -> Iterable[tuple[str, Weight]]:
    """Weights as they lie on disk, so that reading them all is one pass."""
    return sorted(weights.items(), key=lambda item: (str(item[1].values.file), item[1].values.start))
