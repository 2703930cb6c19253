"""What a rendered clip of the toy shows and sounds like: colour, direction and pitch, measured."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from ltxcore.media.moving_shapes import COLOURS, TONES, WAYS
from ltxcore.validation.rendering_settings import Frames, Waveform

DIFFERENCE = 48
"""Levels, of 255, by which a pixel's brightest deviation tells shape from background."""
LEAST_AREA = 0.005
ENDS = 3
"""First and last position are means over so many frames."""
LEAST_DRIFT = 0.15
GREY = 0.25
"""Below this saturation a colour counts as white."""
AUDIBLE = 0.01
PITCH_TOLERANCE = 0.04


@dataclass(frozen=True)
class Content:
    """Of one clip. None where there is nothing to measure."""

    rgb: tuple[int, int, int] | None
    """Median colour of the shape, over all frames."""
    drift: tuple[float, float] | None
    """How far its centre went, in shares of width and height, y downwards."""
    pitch_hz: float | None
    """Where the sound's spectrum is highest."""

    @property
    def hue_deg(self) -> float | None:
        """0 red, 120 green, 240 blue; None for grey and for no shape."""
        if self.rgb is None:
            return None
        hue, saturation, _ = colorsys.rgb_to_hsv(*(part / 255 for part in self.rgb))
        return 360 * hue if saturation >= GREY else None

    @property
    def colour(self) -> str | None:
        """The nearest of the toy's colours by hue, white where there is none."""
        if self.rgb is None or self.hue_deg is None:
            return None if self.rgb is None else "white"
        hue = self.hue_deg
        hues = {name: Content(rgb, None, None).hue_deg for name, rgb in COLOURS.items()}
        return min((n for n, h in hues.items() if h is not None), key=lambda n: hue_distance(hue, hues[n]))

    @property
    def way(self) -> str | None:
        """right, left, up or down; None where nothing moved far."""
        if self.drift is None or max(map(abs, self.drift)) < LEAST_DRIFT:
            return None
        return max(WAYS, key=lambda name: float(np.dot(WAYS[name], self.drift)))

    @property
    def tone(self) -> str | None:
        """low, middle or high; None where the pitch is none of them."""
        if self.pitch_hz is None:
            return None
        near = [n for n, hz in TONES.items() if abs(self.pitch_hz / hz - 1) < PITCH_TOLERANCE]
        return near[0] if near else None


def hue_distance(one: float, other: float | None) -> float:
    """Degrees between two hues, at most 180; 180 where there is no other."""
    return 180.0 if other is None else abs((one - other + 180) % 360 - 180)


def measure_content(frames: Frames, audio: Waveform, sample_rate: int) -> Content:
    """Measure a clip of one shape on an even background.

    Args:
        frames: uint8 `[F, H, W, 3]`.
        audio: float32 `[2, N]`.
    """
    levels = frames.astype(np.int16)
    ground = np.median(levels.reshape(-1, 3), axis=0)
    inside = np.abs(levels - ground).max(axis=-1) > DIFFERENCE
    if inside.mean() < LEAST_AREA:
        return Content(None, None, _pitch(audio, sample_rate))
    median = np.median(frames[inside], axis=0)
    rgb = (int(median[0]), int(median[1]), int(median[2]))
    return Content(rgb, _drift(inside), _pitch(audio, sample_rate))


def _drift(inside: np.ndarray) -> tuple[float, float] | None:
    _, height, width = inside.shape
    ends = []
    for part in (inside[:ENDS], inside[-ENDS:]):
        if not part.any():
            return None
        _, rows, columns = np.nonzero(part)
        ends.append((columns.mean() / width, rows.mean() / height))
    (x0, y0), (x1, y1) = ends
    return float(x1 - x0), float(y1 - y0)


def _pitch(audio: Waveform, sample_rate: int) -> float | None:
    mono = audio.mean(axis=0)
    if float(np.sqrt(np.mean(np.square(mono)))) < AUDIBLE:
        return None
    spectrum = np.abs(np.fft.rfft(mono * np.hanning(len(mono)), 4 * len(mono)))
    return float(spectrum.argmax() * sample_rate / (4 * len(mono)))
