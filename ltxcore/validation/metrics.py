"""Small honest measures of a rendering: does it move, is it black or noise, does it sound."""

from __future__ import annotations

import numpy as np

from ltxcore.config.base import Strict
from ltxcore.validation.rendering_settings import Frames, Rendering, Waveform

NEAR_BLACK_LEVEL = 16
"""A pixel is near black where its brightest channel is below this, of 255."""
SILENCE_PEAK = 1e-4
"""-80 dBFS: below it there is nothing to hear."""
LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)


class Measures(Strict):
    """Of one rendering. Levels are 0-255.

    None: a quantity that silence, or a rendering without pictures or without sound, does not have.
    """

    brightness: float | None
    contrast: float | None
    """Standard deviation of the luma, over all frames."""
    motion: float | None
    """Mean absolute difference between neighbouring frames."""
    near_black: float | None
    """Share of pixels near black."""
    smoothness: float | None
    """Correlation of horizontal neighbours: above 0.8 in pictures of things, about 0 in white noise."""
    audio_rms_dbfs: float | None
    audio_peak_dbfs: float | None
    audio_centroid_hz: float | None
    flags: tuple[str, ...]
    """What a person should look at."""

    @property
    def summary(self) -> str:
        """What stands below a rendering: its motion and brightness, and the level and centre of its sound."""
        parts = []
        if self.motion is not None and self.brightness is not None:
            parts += [f"motion {self.motion:.1f}", f"brightness {self.brightness:.0f}"]
        if self.audio_rms_dbfs is not None:
            parts.append(f"sound {self.audio_rms_dbfs:.0f} dBFS RMS, peak {self.audio_peak_dbfs:.0f}")
        if self.audio_centroid_hz is not None:
            parts.append(f"centre {self.audio_centroid_hz / 1000:.1f} kHz")
        return " · ".join(parts)

    def numbers(self, prefix: str) -> dict[str, float]:
        """The measures as metrics, `prefix/motion` and so on, without those that do not exist."""
        found = self.model_dump(exclude={"flags"})
        return {f"{prefix}/{key}": value for key, value in found.items() if value is not None}


def measure(rendering: Rendering) -> Measures:
    """Measure a rendering. Pictures are judged by their luma (BT.709)."""
    pictures, flags = _pictures(rendering.frames)
    sound, more = _sound(rendering.audio, rendering.sample_rate)
    raised = {**flags, **more}
    return Measures(**pictures, **sound, flags=tuple(flag for flag, is_so in raised.items() if is_so))


def _pictures(frames: Frames) -> tuple[dict[str, float | None], dict[str, bool]]:
    """The measures of frames uint8 [F, H, W, 3], and what to look at."""
    if not len(frames):
        return dict.fromkeys(("brightness", "contrast", "motion", "near_black", "smoothness")), {}
    lumas = [frame.astype(np.float32) @ LUMA for frame in frames]
    mean = float(np.mean([luma.mean() for luma in lumas]))
    spread = float(np.sqrt(np.mean([np.mean((luma - mean) ** 2) for luma in lumas])))
    dark = float(np.mean([(frame.max(axis=-1) < NEAR_BLACK_LEVEL).mean() for frame in frames]))
    motion = mean_difference(frames[1:], frames[:-1])
    smoothness = float(np.mean([_neighbour_correlation(luma) for luma in lumas]))
    measured: dict[str, float | None] = {
        "brightness": round(mean, 3),
        "contrast": round(spread, 3),
        "motion": round(motion, 4),
        "near_black": round(dark, 4),
        "smoothness": round(smoothness, 4),
    }
    return measured, {
        "almost black": dark > 0.95,
        "one flat colour": spread < 2,
        "looks like noise": spread >= 2 and smoothness < 0.3,
        "does not move": len(frames) > 1 and motion < 0.05,
    }


def _sound(audio: Waveform, sample_rate: int) -> tuple[dict[str, float | None], dict[str, bool]]:
    """The measures of a sound float32 [2, N], and what to listen to."""
    peak = float(np.abs(audio).max(initial=0.0))
    if peak < SILENCE_PEAK:
        none = dict.fromkeys(("audio_rms_dbfs", "audio_peak_dbfs", "audio_centroid_hz"))
        return none, {"silent": audio.shape[1] > 0}
    measured: dict[str, float | None] = {
        "audio_rms_dbfs": _dbfs(float(np.sqrt(np.mean(np.square(audio))))),
        "audio_peak_dbfs": _dbfs(peak),
        "audio_centroid_hz": _centroid_hz(audio, sample_rate),
    }
    return measured, {"sound clips": peak > 1.0}


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
