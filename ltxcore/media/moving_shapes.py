"""Clips drawn from a description: one shape of one colour that moves one way while a tone sounds.

What the toy LTX-2 was trained on (bench/toy), and what the sample clips of its LoRA show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

Shape = Literal["circle", "square", "triangle"]
Motion = Literal["right", "left", "up", "down"]

RATE = 16
"""Frames a second."""
FRAMES = 17
BACKGROUND = (16, 20, 34)
COLOURS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "red": (232, 44, 44),
        "yellow": (238, 208, 40),
        "green": (44, 196, 76),
        "blue": (48, 96, 240),
        "white": (236, 236, 236),
    }
)
"""What the toy knows by name; every other colour is new to it."""
TONES: Mapping[str, int] = MappingProxyType({"low": 300, "middle": 600, "high": 1200})
"""Hz. Multiples of the vocoder's frame rate of 100 Hz, so that every frame sounds the same."""
SHAPES: tuple[Shape, ...] = ("circle", "square", "triangle")
WAYS: Mapping[Motion, tuple[int, int]] = MappingProxyType(
    {"right": (1, 0), "left": (-1, 0), "up": (0, -1), "down": (0, 1)}
)
"""Direction in pixels, y pointing down."""
LOUDNESS = 0.4
FADE_S = 0.02


@dataclass(frozen=True)
class MovingShape:
    """One clip. Lengths are shares of the picture's shorter edge."""

    shape: Shape
    colour: tuple[int, int, int]
    """RGB, 0-255."""
    way: tuple[float, float]
    """Direction of the motion, of length 1; y points down."""
    pitch_hz: float | None
    """None: no sound."""
    radius: float = 0.2
    aside: float = 0.0
    """How far the path lies from the middle, to the right of the motion."""
    background: tuple[int, int, int] = BACKGROUND

    def frames(self, width: int, height: int, count: int = FRAMES) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The pictures, uint8 `[count, height, width, 3]`: from one edge to the other, evenly."""
        centres = self._path(width, height, count).astype(np.float32)
        x, y = (np.arange(edge, dtype=np.float32) + 0.5 for edge in (width, height))
        across = x[None, None, :] - centres[:, 0, None, None]
        down = y[None, :, None] - centres[:, 1, None, None]
        inside = _coverage(self.shape, across, down, self.radius * min(width, height))[..., None]
        ground, paint = np.array(self.background, np.float32), np.array(self.colour, np.float32)
        drawn: np.ndarray[Any, np.dtype[np.uint8]] = (
            (ground + inside * (paint - ground)).round().astype(np.uint8)
        )
        return drawn

    def sound(self, duration_s: float, sample_rate: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The tone on both sides, float32 `[2, N]`, with short fades; zeros where there is none."""
        time = np.arange(round(duration_s * sample_rate)) / sample_rate
        if self.pitch_hz is None:
            return np.zeros((2, len(time)), np.float32)
        fade = np.minimum(1, np.minimum(time, duration_s - time) / FADE_S)
        tone = LOUDNESS * fade * np.sin(2 * np.pi * self.pitch_hz * time)
        return np.stack([tone, tone]).astype(np.float32)

    def _path(self, width: int, height: int, count: int) -> np.ndarray:
        """Centres `[count, 2]`: the shape starts and ends at 1.2 radii from the edges."""
        short = min(width, height)
        way = np.array(self.way)
        room = np.abs(way) @ np.array([width, height]) / 2 - 1.2 * self.radius * short
        side = np.array([-way[1], way[0]]) * self.aside * short
        middle = np.array([width / 2, height / 2]) + side
        return middle + np.linspace(-1, 1, count)[:, None] * room * way


def _coverage(shape: Shape, across: np.ndarray, down: np.ndarray, radius: float) -> np.ndarray:
    """How much of each pixel the shape covers, 0-1, from the distance to its outline."""
    if shape == "circle":
        distance = np.hypot(across, down) - radius
    elif shape == "square":
        distance = np.maximum(np.abs(across), np.abs(down)) - 0.85 * radius
    else:
        # Equilateral, its point upwards; the outline's three half planes.
        slope = np.abs(across) * np.float32(3**0.5 / 2) - down / 2
        distance = np.maximum(slope, down) - 0.6 * radius
        distance = np.broadcast_to(distance, np.broadcast_shapes(across.shape, down.shape))
    return np.clip(0.5 - distance, 0, 1)
