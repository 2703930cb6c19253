"""Small honest measures of a rendering: does it move, is it black or noise, does it sound."""

from __future__ import annotations

import numpy as np

from ltxcore.config.base import Strict
from ltxcore.validation.plan import Frames, Rendering, Waveform

NEAR_BLACK_LEVEL = 16
"""A pixel is near black where its brightest channel is below this, of 255."""
SILENCE_PEAK = 1e-4
"""-80 dBFS: below it there is nothing to hear."""
LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)


class Measures(Strict):
    """Of one rendering. Levels are 0-255. A quantity that silence does not have is None."""

    brightness: float
    contrast: float
    """Standard deviation of the luma, over all frames."""
    motion: float
    """Mean absolute difference between neighbouring frames."""
    near_black: float
    """Share of pixels near black."""
    smoothness: float
    """Correlation of horizontal neighbours: above 0.8 in pictures of things, about 0 in white noise."""
    audio_rms_dbfs: float | None
    audio_peak_dbfs: float | None
    audio_centroid_hz: float | None
    flags: tuple[str, ...]
    """What a person should look at."""

    def numbers(self, prefix: str) -> dict[str, float]:
        """The measures as metrics, `prefix/motion` and so on, without those that do not exist."""
        found = self.model_dump(exclude={"flags"})
        return {f"{prefix}/{key}": value for key, value in found.items() if value is not None}


def measure(rendering: Rendering) -> Measures:
    """Measure a rendering. Pictures are judged by their luma (BT.709)."""
    lumas = [frame.astype(np.float32) @ LUMA for frame in rendering.frames]
    mean = float(np.mean([luma.mean() for luma in lumas]))
    spread = float(np.sqrt(np.mean([np.mean((luma - mean) ** 2) for luma in lumas])))
    dark = float(np.mean([(frame.max(axis=-1) < NEAR_BLACK_LEVEL).mean() for frame in rendering.frames]))
    motion = mean_difference(rendering.frames[1:], rendering.frames[:-1])
    smoothness = float(np.mean([_neighbour_correlation(luma) for luma in lumas]))
    peak = float(np.abs(rendering.audio).max(initial=0.0))
    silent = peak < SILENCE_PEAK
    flags = {
        "almost black": dark > 0.95,
        "one flat colour": spread < 2,
        "looks like noise": spread >= 2 and smoothness < 0.3,
        "does not move": len(rendering.frames) > 1 and motion < 0.05,
        "silent": silent,
        "sound clips": peak > 1.0,
    }
    return Measures(
        brightness=round(mean, 3),
        contrast=round(spread, 3),
        motion=round(motion, 4),
        near_black=round(dark, 4),
        smoothness=round(smoothness, 4),
        audio_rms_dbfs=None if silent else _dbfs(float(np.sqrt(np.mean(np.square(rendering.audio))))),
        audio_peak_dbfs=None if silent else _dbfs(peak),
        audio_centroid_hz=None if silent else _centroid_hz(rendering.audio, rendering.sample_rate),
        flags=tuple(flag for flag, raised in flags.items() if raised),
    )


def mean_difference(one: Frames, other: Frames) -> float:
    """Mean absolute difference in levels of 255 between frames uint8 [F, H, W, 3]; 0 where there are none.

    Raises:
        ValueError: the shapes differ.
    """
    if one.shape != other.shape:
        raise ValueError(f"frames of {list(one.shape)} cannot be compared with frames of {list(other.shape)}")
    if not len(one):
        return 0.0
    pairs = zip(one, other, strict=True)
    return float(np.mean([np.abs(a.astype(np.int16) - b.astype(np.int16)).mean() for a, b in pairs]))


def _neighbour_correlation(luma: np.ndarray) -> float:
    """Pearson's correlation of each pixel with its right neighbour; 1 where the picture is flat."""
    left, right = luma[:, :-1] - luma[:, :-1].mean(), luma[:, 1:] - luma[:, 1:].mean()
    power = float(np.sqrt((left**2).mean() * (right**2).mean()))
    return float((left * right).mean()) / power if power > 1e-6 else 1.0


def _dbfs(amplitude: float) -> float:
    return round(20 * float(np.log10(amplitude)), 2)


def _centroid_hz(audio: Waveform, sample_rate: int) -> float:
    """The spectral centroid: the mean frequency, weighted by the magnitude of both channels together."""
    # Without a window the ends' leakage pulls the centroid of a pure 440 Hz tone to 1.3 kHz.
    spectrum = np.fft.rfft(audio * np.hanning(audio.shape[1]))
    magnitude = np.sqrt((np.abs(spectrum) ** 2).sum(axis=0))
    hertz = np.fft.rfftfreq(audio.shape[1], 1 / sample_rate)
    return round(float((hertz * magnitude).sum() / magnitude.sum()), 1)
