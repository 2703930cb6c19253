"""The text connectors: loaded one way, for a whole training or only while captions go through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ltxcore.memory.out_of_memory import release_memory
from ltxcore.memory.placement import place_connectors
from ltxcore.models.files.loading import load_connectors
from ltxcore.models.files.source import ModelSource
from ltxcore.models.text.text_connectors import Caption, ConnectedCaption, connect


def connectors_on(source: ModelSource, dtype: torch.dtype, device: str, *, streamed: bool = False) -> Any:
    """The connectors on a device, or streamed to it from host memory.

    Raises:
        ModelError: they are missing or incomplete.
    """
    connectors = load_connectors(source, dtype, "cpu")
    place_connectors(connectors, device, streamed=streamed)
    return connectors


@contextmanager
def text_connectors(
    source: ModelSource, dtype: torch.dtype, device: str
) -> Iterator[Callable[[Caption], ConnectedCaption]]:
    """Give what puts features of a text through the connectors, which are gone afterwards.

    What it gives is on the CPU: `video` `[T, Dv]` and `audio` `[T, Da]` of all T slots.

    Raises:
        ModelError: they are missing or incomplete.
    """
    # Whoever keeps what is given here keeps no connectors.
    held = [connectors_on(source, dtype, device)]
    slots = source.text_max_tokens

    def connected(features: Caption) -> ConnectedCaption:
        video, audio = connect(held[0], [features], slots)
        return ConnectedCaption(video[0].cpu().contiguous(), audio[0].cpu().contiguous())

    try:
        yield connected
    finally:
        held.clear()
        release_memory()
