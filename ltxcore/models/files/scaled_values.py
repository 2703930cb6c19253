"""fp8 and fp4 weights with their scales: decoding them, and encoding for the checkpoints that tests write.

fp8: weight = value x scale.
fp4 (NVFP4): two E2M1 values a byte, the first in the high nibble; weight = value x block scale (fp8, one for
16 values of a row) x scale. Block scales lie in cuBLAS's order for block-scaled matrices: tiles of 128 rows
x 4 columns, and within a tile row r, column c at (r mod 32) x 16 + (r div 32) x 4 + c.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ltxcore.models.files.weights import FP4_BLOCK, SCALE_TILE, padded_scales

FP8_MAX = 448.0
FP4_MAX = 6.0
# E2M1 without sign, by code; bit 3 is the sign.
_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_TILE_ROWS, _TILE_COLUMNS = SCALE_TILE
_LANES = 32
# Values decoded at once: work space stays small beside any weight.
_CHUNK_VALUES = 1 << 21


@dataclass(frozen=True)
class Fp4:
    """An encoded weight `[rows, columns]`."""

    packed: torch.Tensor
    """uint8 `[rows, columns / 2]`."""
    block_scales: torch.Tensor
    """fp8, padded to whole tiles and tiled."""
    scale: torch.Tensor
    """float32, one value."""


def decode_fp8(values: torch.Tensor, scale: float, dtype: torch.dtype) -> torch.Tensor:
    """The weight that fp8 `values` of any shape stand for."""
    out = torch.empty(values.shape, dtype=dtype, device=values.device)
    flat, target = values.reshape(-1), out.view(-1)
    for begin in range(0, flat.numel(), _CHUNK_VALUES):
        piece = slice(begin, begin + _CHUNK_VALUES)
        target[piece] = flat[piece].float() * scale
    return out


def decode_fp4(
    packed: torch.Tensor, block_scales: torch.Tensor, scale: float, dtype: torch.dtype
) -> torch.Tensor:
    """The weight `[rows, columns]` of `packed` uint8 `[rows, columns / 2]` and tiled fp8 `block_scales`."""
    rows, columns = packed.shape[0], packed.shape[1] * 2
    scales = untile(block_scales, rows, columns // FP4_BLOCK)
    table = _pairs(packed.device)
    out = torch.empty(rows, columns, dtype=dtype, device=packed.device)
    step = max(1, _CHUNK_VALUES // columns)
    for begin in range(0, rows, step):
        piece = slice(begin, begin + step)
        values = table[packed[piece].int()].view(-1, columns // FP4_BLOCK, FP4_BLOCK)
        out[piece] = (values * (scales[piece].float() * scale)[..., None]).flatten(1)
    return out


def encode_fp8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """fp8 values [out, in] and float32 scale [] of a weight [out, in].

    Its largest magnitude becomes fp8's largest.
    """
    scale = (weight.float().abs().amax() / FP8_MAX).clamp(min=torch.finfo(torch.float32).tiny)
    return (weight.float() / scale).to(torch.float8_e4m3fn), scale


def encode_fp4(weight: torch.Tensor) -> Fp4:
    """A weight `[rows, columns]`, columns a multiple of 16, in NVFP4."""
    rows, columns = weight.shape
    blocks = weight.float().view(rows, columns // FP4_BLOCK, FP4_BLOCK)
    tiny = torch.finfo(torch.float32).tiny
    scale = (blocks.abs().amax() / (FP4_MAX * FP8_MAX)).clamp(min=tiny)
    scales = (blocks.abs().amax(-1) / FP4_MAX / scale).to(torch.float8_e4m3fn)
    steps = (scales.float() * scale).clamp(min=tiny)[..., None]
    magnitudes = torch.tensor(_MAGNITUDES)
    between = (magnitudes[1:] + magnitudes[:-1]) / 2
    codes = torch.bucketize((blocks / steps).abs(), between).byte() | (blocks < 0).byte() << 3
    pairs = codes.view(rows, columns // 2, 2)
    return Fp4(pairs[..., 0] << 4 | pairs[..., 1], tile(scales), scale)


def tile(scales: torch.Tensor) -> torch.Tensor:
    """Block scales `[rows, columns]` padded with zeros to whole tiles, in tiled order."""
    rows, columns = scales.shape
    tall, wide = padded_scales(rows, columns * FP4_BLOCK)
    padded = torch.zeros(tall, wide, dtype=torch.uint8, device=scales.device)
    padded[:rows, :columns] = scales.view(torch.uint8)
    tiles = padded.view(
        tall // _TILE_ROWS, _TILE_ROWS // _LANES, _LANES, wide // _TILE_COLUMNS, _TILE_COLUMNS
    )
    return tiles.permute(0, 3, 2, 1, 4).reshape(tall, wide).view(scales.dtype)


def untile(scales: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The reverse of `tile`: the scales [rows, columns] of as many blocks."""
    tall, wide = padded_scales(rows, columns * FP4_BLOCK)
    tiles = scales.view(torch.uint8).reshape(
        tall // _TILE_ROWS, wide // _TILE_COLUMNS, _LANES, _TILE_ROWS // _LANES, _TILE_COLUMNS
    )
    return tiles.permute(0, 3, 2, 1, 4).reshape(tall, wide)[:rows, :columns].view(scales.dtype)


def _pairs(device: torch.device) -> torch.Tensor:
    """Byte -> its two values, high nibble first: `[256, 2]`."""
    codes = torch.tensor([*_MAGNITUDES, *(-value for value in _MAGNITUDES)], device=device)
    byte = torch.arange(256, device=device)
    return torch.stack([codes[byte >> 4], codes[byte & 15]], dim=-1)
