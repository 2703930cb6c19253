"""What is shown of a rendering without pictures: the spectrogram of its sound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ltxcore.validation.rendering_settings import Frames, Rendering, Waveform

WIDTH_PX, HEIGHT_PX, DPI = 640, 320, 100
PICTURES_A_SECOND = 4
TRANSFORM, OVERLAP = 1024, 768
QUIETEST_DB, LOUDEST_DB = -140, -30
PAPER, INK = "#14161a", "#eceff4"


def pictured(rendering: Rendering) -> Rendering:
    """The rendering itself, or where it has no pictures, with its spectrogram for as long as it sounds.

    Raises:
        ValueError: it has neither pictures nor sound.
    """
    if rendering.has_pictures:
        return rendering
    if not rendering.has_sound:
        raise ValueError(f"{rendering.name} has neither pictures nor sound, so there is nothing to show")
    duration_s = rendering.audio.shape[1] / rendering.sample_rate
    count = max(1, round(duration_s * PICTURES_A_SECOND))
    picture = spectrogram(rendering.audio, rendering.sample_rate)
    return replace(rendering, frames=np.repeat(picture[None], count, axis=0), fps=count / duration_s)


def spectrogram(sound: Waveform, sample_rate: int) -> Frames:
    """The spectrogram of both channels' mean, uint8 `[H, W, 3]`, with seconds and kHz at its edges."""
    # The object interface: pyplot keeps global state and picks a window system.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    mono = sound.mean(axis=0)
    mono = np.pad(mono, (0, max(0, TRANSFORM - len(mono))))
    figure = Figure(figsize=(WIDTH_PX / DPI, HEIGHT_PX / DPI), dpi=DPI, facecolor=PAPER, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor=PAPER)
    # A sound of zeros has no logarithm; this one is below what is drawn.
    power = mono + 1e-12
    axes.specgram(
        power,
        NFFT=TRANSFORM,
        noverlap=OVERLAP,
        Fs=sample_rate / 1000,
        cmap="magma",
        vmin=QUIETEST_DB,
        vmax=LOUDEST_DB,
    )
    axes.set_xlabel("seconds", color=INK)
    axes.set_ylabel("kHz", color=INK)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}")
    axes.tick_params(colors=INK)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
