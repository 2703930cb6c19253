"""Text features to the transformer's embeddings: in the step that needs them, or beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ltxcore.models.text.caption_encoder import TextFeatures


@dataclass(frozen=True)
class ConnectedCaption:
    """A caption that went through the connectors already."""

    video: torch.Tensor
    """`[T, Dv]`, all slots."""
    audio: torch.Tensor
    """`[T, Da]`."""


@dataclass(frozen=True)
class PrecomputedConnectors:
    """Replaces the connectors after they have run for every caption and were freed."""

    device: torch.device
    dtype: torch.dtype


Caption = TextFeatures | ConnectedCaption


@torch.no_grad()
def connect(
    connectors: Any, captions: Sequence[Caption], max_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the connectors on stored features, or take what they gave before.

    Each caption goes through them alone: what it becomes cannot depend on its neighbours in a batch, so that
    it may as well be computed once, before the training.

    Args:
        connectors: `LTX2TextConnectors`, whose extractor is not used, or what stands in their place.
        captions: one a sample.
        max_tokens: slots of the result; real tokens come first, learned registers fill the rest. A
            multiple of the register count.

    Returns:
        `[B, max_tokens, Dv]` and `[B, max_tokens, Da]`, in the connectors' dtype. Every slot is valid: the
        transformer gets no mask.

    Raises:
        ValueError: a caption has more tokens than `max_tokens`, or one lacks the audio feature that another
            has.
    """
    if len({isinstance(caption, TextFeatures) and caption.audio is None for caption in captions}) > 1:
        raise ValueError("features of different versions in one batch: one of them has no audio feature")
    pairs = [_connected(connectors, caption, max_tokens) for caption in captions]
    videos, audios = zip(*pairs, strict=True)
    return torch.cat(videos), torch.cat(audios)


def _connected(connectors: Any, caption: Caption, max_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`[1, max_tokens, Dv]` and `[1, max_tokens, Da]`."""
    dtype, device = connectors.dtype, connectors.device
    if isinstance(caption, ConnectedCaption):
        return caption.video[None].to(device, dtype), caption.audio[None].to(device, dtype)
    tokens = len(caption.video)
    if tokens > max_tokens:
        raise ValueError(f"a caption has {tokens} tokens, but the connectors were given {max_tokens} slots")
    mask = torch.full((1, 1, 1, max_tokens), torch.finfo(dtype).min, dtype=dtype, device=device)
    mask[..., :tokens] = 0
    video = _padded(caption.video, max_tokens).to(device, dtype)
    audio = video if caption.audio is None else _padded(caption.audio, max_tokens).to(device, dtype)
    return connectors.video_connector(video, mask)[0], connectors.audio_connector(audio, mask)[0]


def _padded(row: torch.Tensor, length: int) -> torch.Tensor:
    padded = row.new_zeros(1, length, row.shape[-1])
    padded[0, : len(row)] = row
    return padded
