"""The weights of a component by the model's own names and shapes, however they are stored.

A stored weight is one tensor, or, in fp8 and fp4 checkpoints, values with their scales. Torch is not
imported here: shapes and sizes are asked for before any stage has started.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ltxcore.models.errors import ModelError
from ltxcore.models.files.tensor_file import StoredTensor

FP8, PACKED_FP4 = "F8_E4M3", "U8"
FP4_BLOCK = 16
"""Values of a row that share a block scale."""
SCALE_TILE = (128, 4)
"""Rows and columns of the tiles in which cuBLAS wants block scales; both are padded to whole tiles."""
SCALE, BLOCK_SCALE_2, INPUT_SCALE = ".weight_scale", ".weight_scale_2", ".input_scale"
# Markers of formats that say no more than the tensors' types do.
_UNREAD_COMPANIONS = (INPUT_SCALE, ".comfy_quant")


@dataclass(frozen=True)
class Weight:
    """One weight: its shape once loaded, and the stored tensors that it is read from."""

    shape: tuple[int, ...]
    values: StoredTensor
    scale: StoredTensor | None = None
    """One float: fp8's and fp4's scale of the whole tensor."""
    block_scales: StoredTensor | None = None
    """fp8, one for 16 values of a row, in cuBLAS's tiled order: fp4 only."""

    @property
    def parts(self) -> tuple[StoredTensor, ...]:
        """The stored tensors that it is read from: values, and scales where there are any."""
        return tuple(part for part in (self.values, self.scale, self.block_scales) if part is not None)


Weights = Mapping[str, Weight]


def plain_weights(tensors: Mapping[str, StoredTensor]) -> dict[str, Weight]:
    """Weights that are stored as they are."""
    return {name: Weight(tensor.shape, tensor) for name, tensor in tensors.items()}


def scaled_weights(tensors: Mapping[str, StoredTensor]) -> dict[str, Weight]:
    """Weights of a checkpoint that may hold fp8 or fp4 values beside their scales.

    Raises:
        ModelError: values without their scales, scales without values, or scales of a wrong shape.
    """
    weights: dict[str, Weight] = {}
    used: set[str] = set()
    any_scale = any(name.endswith(SCALE) for name in tensors)
    for name, tensor in tensors.items():
        stem = name.removesuffix(".weight")
        if name.endswith(".weight") and tensor.dtype == PACKED_FP4:
            weights[name] = _fp4(name, tensor, tensors)
        elif name.endswith(".weight") and tensor.dtype == FP8:
            scale = tensors.get(stem + SCALE)
            if any_scale and (scale is None or scale.values != 1):
                raise _wrong(name, "fp8", f"its {SCALE[1:]} of one float")
            weights[name] = Weight(tensor.shape, tensor, scale)
        else:
            continue
        used |= {name, stem + SCALE, stem + BLOCK_SCALE_2}
    for name, tensor in tensors.items():
        if name not in used and not name.endswith(_UNREAD_COMPANIONS):
            weights[name] = Weight(tensor.shape, tensor)
    return weights


def padded_scales(rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns of the block scales of `rows` x `columns` values, padded to whole tiles."""
    tall, wide = SCALE_TILE
    return -(-rows // tall) * tall, -(-(columns // FP4_BLOCK) // wide) * wide


def _fp4(name: str, packed: StoredTensor, tensors: Mapping[str, StoredTensor]) -> Weight:
    stem = name.removesuffix(".weight")
    block_scales, scale = tensors.get(stem + SCALE), tensors.get(stem + BLOCK_SCALE_2)
    if len(packed.shape) != 2 or packed.shape[1] * 2 % FP4_BLOCK:
        raise _wrong(name, "fp4", f"two dimensions and rows of whole blocks of {FP4_BLOCK}")
    rows, columns = packed.shape[0], packed.shape[1] * 2
    padded = padded_scales(rows, columns)
    if scale is None or scale.values != 1:
        raise _wrong(name, "fp4", f"its {BLOCK_SCALE_2[1:]} of one float")
    if block_scales is None or block_scales.dtype != FP8 or block_scales.values != padded[0] * padded[1]:
        raise _wrong(name, "fp4", f"its {SCALE[1:]} of {padded[0]} x {padded[1]} fp8 values")
    return Weight((rows, columns), packed, scale, block_scales)


def _wrong(name: str, kind: str, lacks: str) -> ModelError:
    return ModelError(f"the {kind} weight {name} lacks {lacks}; download the checkpoint again")
