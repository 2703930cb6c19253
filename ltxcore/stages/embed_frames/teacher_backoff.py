"""Runs frames through CREPA's teacher, fewer at once each time that memory runs out."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch

from ltxcore.memory.out_of_memory import is_out_of_memory, release_memory
from ltxcore.models.teacher_features import patch_tokens

logger = logging.getLogger(__name__)


class FrameTeacher:
    """A teacher at one image size, which takes fewer frames at once if memory runs out.

    Args:
        teacher: `Dinov2Model`, frozen, on its device.
        image_size: edge that frames are resized to, a multiple of the patch.
        frames_at_once: where it begins.
    """

    def __init__(self, teacher: Any, image_size: int, frames_at_once: int) -> None:
        self._teacher, self._size, self._at_once = teacher, image_size, frames_at_once
        self.steps: list[str] = []
        """Every step down, in words."""

    def features(self, frames: np.ndarray[Any, Any], grid: tuple[int, int]) -> torch.Tensor:
        """The teacher's view of frames, one token for each latent.

        Args:
            frames: uint8 `[F, H, W, 3]`.
            grid: height and width of the latents.

        Returns:
            bf16 `[F, height · width, D]` on the CPU.

        Raises:
            MemoryError: not even one frame at a time fits.
        """
        done: list[torch.Tensor] = []
        while len(done) < len(frames):
            found = self._try(frames[len(done) : len(done) + self._at_once], grid)
            if found is not None:
                done += found
            elif self._at_once == 1:
                raise MemoryError(
                    f"not even one frame of {self._size}x{self._size} fits into memory with the teacher; "
                    "allow more memory, lower crepa_encoder_image_size, or take a smaller crepa_encoder"
                )
            else:
                self._step_down()
        return torch.stack(done)

    def _step_down(self) -> None:
        step = f"{self._at_once} frames at once did not fit; {self._at_once // 2} at once"
        self._at_once //= 2
        self.steps.append(step)
        logger.warning("out of memory: %s", step)

    def _try(self, frames: np.ndarray[Any, Any], grid: tuple[int, int]) -> list[torch.Tensor] | None:
        try:
            return list(patch_tokens(self._teacher, frames, self._size, grid))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside the handler: the error's traceback holds every tensor of the attempt.
        release_memory()
        return None
