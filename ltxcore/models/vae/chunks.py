"""Runs the video VAE's encoder on a few frames at a time, with the same result as for the whole clip.

Only two kinds of module of the encoder look along time, and both look back alone: causal convolutions, which
stand in for what precedes the first frame by repeating it, and temporal downsamplers, which double the first
frame so that 8n + 1 frames fall into whole groups. Norms are per location. So a piece of a clip needs nothing
but the frames that each convolution still has to see, which the piece before leaves behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ltxcore.models.errors import ModelError


class EncoderStream:
    """State between the pieces of one clip: the last input frames of each convolution."""

    def __init__(self) -> None:
        self._tails: dict[int, torch.Tensor] = {}
        self._begun = False

    def begin(self) -> None:
        """Forget the previous clip."""
        self._tails.clear()
        self._begun = False

    def next_piece(self) -> None:
        """Say that the next call continues the clip: its first frames are no longer padded."""
        self._begun = True

    def convolve(self, module: Any, frames: torch.Tensor) -> torch.Tensor:
        """A causal convolution of `[B, C, T, H, W]`, continued from the piece before."""
        kernel, stride = module.conv.kernel_size[0], module.conv.stride[0]
        before = self._tails.get(id(module))
        if before is None:
            before = frames[:, :, :1].expand(-1, -1, kernel - 1, -1, -1)
        joined = torch.cat([before, frames], dim=2)
        outputs = (joined.shape[2] - kernel) // stride + 1
        # A copy: a view would keep the whole piece in memory.
        self._tails[id(module)] = joined[:, :, outputs * stride :].clone()
        return module.conv(joined)

    def downsample(self, module: Any, frames: torch.Tensor) -> torch.Tensor:
        """Fold space and time of frames [B, C, F, H, W] into channels, through the convolution.

        The input, averaged over groups of channels, is added as residual.
        """
        if not self._begun:
            frames = torch.cat([frames[:, :, : module.stride[0] - 1], frames], dim=2)
        folded = _fold(frames, module.stride)
        residual = folded.unflatten(1, (-1, module.group_size)).mean(dim=2)
        return _fold(module.conv(frames), module.stride) + residual


def _fold(frames: torch.Tensor, stride: tuple[int, int, int]) -> torch.Tensor:
    """`[B, C, T st, H sh, W sw]` -> `[B, C st sh sw, T, H, W]`, the channel outermost."""
    time, height, width = stride
    apart = frames.unflatten(4, (-1, width)).unflatten(3, (-1, height)).unflatten(2, (-1, time))
    return apart.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)


def pieces(count: int, piece_frames: int, group: int) -> list[int]:
    """Lengths of the pieces of a clip of `count` = 8n + 1 frames, none above `piece_frames`.

    The first frame is a group of its own, so that the first piece is shorter by `group` - 1 = 7.

    Raises:
        ValueError: `piece_frames` is no multiple of `group`.
    """
    if piece_frames < group or piece_frames % group:
        raise ValueError(f"a piece must be a multiple of {group} frames; found {piece_frames}")
    lengths = [min(count, piece_frames - group + 1)]
    while (left := count - sum(lengths)) > 0:
        lengths.append(min(left, piece_frames))
    return lengths


@contextmanager
def encode_in_pieces(vae: Any, piece_frames: int) -> Iterator[None]:
    """Inside, `vae.encoder` takes its frames in pieces of at most `piece_frames`, a multiple of 8.

    Works below diffusers' own tiling and slicing: each call of the encoder, a tile or a whole clip, is cut
    along time by itself.

    Args:
        vae: `AutoencoderKLLTX2Video` with a causal encoder.

    Raises:
        ModelError: the encoder has modules that look along time in a way not known here.
        ValueError: `piece_frames` is not a multiple of the VAE's temporal compression.
    """
    encoder, group = vae.encoder, vae.temporal_compression_ratio
    pieces(1, piece_frames, group)
    stream = EncoderStream()
    whole = encoder.forward

    def forward(frames: torch.Tensor, causal: bool | None = None) -> torch.Tensor:
        stream.begin()
        encoded = []
        for piece in frames.split(pieces(frames.shape[2], piece_frames, group), dim=2):
            encoded.append(whole(piece, causal=causal))
            stream.next_piece()
        stream.begin()
        return torch.cat(encoded, dim=2)

    replaced = _replace(encoder, stream)
    encoder.forward = forward
    try:
        yield
    finally:
        for module in (encoder, *replaced):
            del module.forward


def _replace(encoder: Any, stream: EncoderStream) -> list[Any]:
    """Give every module that looks along time a forward that continues `stream`."""
    from diffusers.models.autoencoders.autoencoder_kl_ltx2 import (
        LTX2VideoCausalConv3d,
        LTX2VideoDownsampler3d,
    )

    if not encoder.is_causal:
        raise ModelError("this video VAE's encoder is not causal, so that its clips cannot be cut along time")
    convolutions = [m for m in encoder.modules() if isinstance(m, LTX2VideoCausalConv3d)]
    downsamplers = [m for m in encoder.modules() if isinstance(m, LTX2VideoDownsampler3d)]
    known = {id(module.conv) for module in convolutions}
    for name, module in encoder.named_modules():
        looks_along_time = isinstance(module, torch.nn.Conv3d) and module.kernel_size[0] > 1
        if looks_along_time and id(module) not in known:
            raise ModelError(
                f"the video VAE's encoder.{name} is not a causal convolution; encode clips whole"
            )
    for module in convolutions:
        module.forward = _continued(stream.convolve, module)
    for module in downsamplers:
        module.forward = _continued(stream.downsample, module)
    return [*convolutions, *downsamplers]


def _continued(step: Any, module: Any) -> Any:
    def forward(hidden_states: torch.Tensor, causal: bool = True) -> torch.Tensor:
        return step(module, hidden_states)

    return forward
