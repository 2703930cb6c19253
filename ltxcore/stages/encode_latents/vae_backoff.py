"""Runs clips through the video VAE, in a smaller way each time that memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ltxcore.memory.out_of_memory import is_out_of_memory, release_memory
from ltxcore.models.vae.video_latents import encode_videos
from ltxcore.models.vae.ways import VaeWay, ways_from
from ltxcore.pipeline.plan.vae_room import Size, VaeRoom

logger = logging.getLogger(__name__)

Clip = np.ndarray[Any, Any]


class VaeBackOff:
    """Encodes clips in the first way that has worked for their size, or in the next smaller one.

    What is not predicted to fit into `room` is not tried.

    Pieces along time change no value. Tiles do; the way that was taken is returned, so that the latents'
    key can say so.
    """

    def __init__(self, vae: Any, first: VaeWay, room: VaeRoom | None = None) -> None:
        self._vae, self._first, self._room = vae, first, room
        self._found: dict[tuple[int, ...], VaeWay] = {}
        self._alone = False
        self.steps: list[str] = []
        """Every step down, in words."""

    def encode(self, clips: Sequence[Clip]) -> list[tuple[torch.Tensor, VaeWay]]:
        """The latents bf16 [C, F, H, W] of clips of one size, each with the way by which it was encoded.

        Raises:
            MemoryError: not even the smallest way suffices.
        """
        way = self._way_of(clips[0])
        fitting = len(clips)
        if self._room is not None:
            fitting = self._room.clips_for(way, _size(clips[0]), len(clips))
        if 1 < fitting < len(clips) and not self._alone:
            return [*self.encode(clips[:fitting]), *self.encode(clips[fitting:])]
        if fitting > 1 and not self._alone:
            found = self._try(clips, way)
            if found is not None:
                return [(latents, way) for latents in found]
            self._alone = True
            self._note(clips[0], f"{len(clips)} clips at once", "one clip at a time")
        return [self._encode_one(clip) for clip in clips]

    def _encode_one(self, clip: Clip) -> tuple[torch.Tensor, VaeWay]:
        frames, height, width = clip.shape[:3]
        tried: list[str] = []
        for way in ways_from(self._way_of(clip), frames, width, height):
            if tried:
                self._note(clip, tried[-1], way.name)
            found = self._try([clip], way)
            if found is not None:
                self._found[clip.shape] = way
                return found[0], way
            tried.append(way.name)
        raise MemoryError(
            f"a clip of {frames} frames of {width}x{height} does not fit into memory even as {tried[-1]}; "
            "allow more memory, or give the dataset a lower resolution"
        )

    def _try(self, clips: Sequence[Clip], way: VaeWay) -> list[torch.Tensor] | None:
        try:
            with way.applied(self._vae):
                return encode_videos(self._vae, clips)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside the handler: the error's traceback holds every tensor of the attempt.
        release_memory()
        return None

    def _way_of(self, clip: Clip) -> VaeWay:
        if clip.shape not in self._found and self._room is not None:
            self._found[clip.shape] = self._room.way_for(self._first, _size(clip))
        return self._found.get(clip.shape, self._first)

    def _note(self, clip: Clip, failed: str, next_way: str) -> None:
        frames, height, width = clip.shape[:3]
        step = f"{frames} frames of {width}x{height} did not fit as {failed}; encoded as {next_way}"
        self.steps.append(step)
        logger.warning("out of memory: %s", step)


def _size(clip: Clip) -> Size:
    """Frames, width and height of `[F, H, W, 3]`."""
    frames, height, width = clip.shape[:3]
    return frames, width, height
