"""A rendering as an H.264/AAC mp4 that browsers play, written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from fractions import Fraction
from pathlib import Path

import ffmpeg
import numpy as np

from ltxcore.store.blobs import sync_directory
from ltxcore.validation.rendering_settings import Rendering, Waveform
from ltxcore.validation.sound_picture import pictured

CRF = 18
AUDIO_BITRATE = "192k"


class VideoFileError(RuntimeError):
    """ffmpeg could not write a video; holds its own words."""


def write_video(path: Path, rendering: Rendering) -> None:
    """Encode a rendering as mp4: H.264 (yuv420p, BT.709, crf 18) with AAC sound as long as the video.

    A rendering without sound has no sound track; one without pictures shows its spectrogram.

    The frames go to ffmpeg through its standard input and the sound through a file beside the output:
    with one pipe there is nothing that two writers could wait for.

    Raises:
        ValueError: the frames or the sound have the wrong shape or type.
        VideoFileError: ffmpeg failed; nothing is left under `path`.
    """
    rendering = pictured(rendering)
    frames, sound = rendering.frames, rendering.audio
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise ValueError(f"frames must be uint8 [F, H, W, 3]; found {frames.dtype} {list(frames.shape)}")
    if sound.ndim != 2 or len(sound) != 2:
        raise ValueError(f"sound must be float32 [2, N]; found {sound.dtype} {list(sound.shape)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.", suffix=".tmp") as folder:
        raw, made = Path(folder) / "sound.f32le", Path(folder) / "video.mp4"
        count = round(len(frames) / rendering.fps * rendering.sample_rate)
        raw.write_bytes(_as_long_as(sound, count).T.astype("<f4").tobytes())
        _encode(rendering, raw, made)
        with made.open("rb") as file:
            os.fsync(file.fileno())
        made.replace(path)
    sync_directory(path.parent)


def _as_long_as(sound: Waveform, count: int) -> Waveform:
    """[2, count]: cut, or filled up with silence, and held within full scale."""
    missing = max(0, count - sound.shape[1])
    return np.clip(np.pad(sound, ((0, 0), (0, missing)))[:, :count], -1.0, 1.0)


def _encode(rendering: Rendering, raw: Path, made: Path) -> None:
    _, height, width, _ = rendering.frames.shape
    rate = Fraction(rendering.fps).limit_denominator(1001)
    video = ffmpeg.input(
        "pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", framerate=str(rate)
    )
    # Without the matrix swscale converts by BT.601 and players decode by BT.709: greens and skin shift.
    video = video.filter(
        "scale", out_color_matrix="bt709", out_range="tv", flags="accurate_rnd+full_chroma_int"
    )
    streams, sound = [video], {}
    if rendering.has_sound:
        streams.append(ffmpeg.input(f"file:{raw}", format="f32le", ar=rendering.sample_rate, ac=2))
        sound = {"acodec": "aac", "audio_bitrate": AUDIO_BITRATE}
    command = ffmpeg.output(
        *streams,
        f"file:{made}",
        **sound,
        vcodec="libx264",
        pix_fmt="yuv420p",
        crf=CRF,
        # x264 cuts the work by its threads, so that their number changes the file.
        threads=1,
        movflags="+faststart",
        colorspace="bt709",
        color_primaries="bt709",
        color_trc="bt709",
        color_range="tv",
        loglevel="error",
    )
    pixels = np.ascontiguousarray(rendering.frames).data.cast("B")
    try:
        command.run(input=pixels, capture_stderr=True)
    except ffmpeg.Error as error:
        words = error.stderr.decode(errors="replace").strip() or "ffmpeg said nothing"
        raise VideoFileError(f"{rendering.name}: the mp4 could not be written: {words}") from error
    except FileNotFoundError as error:
        raise VideoFileError("ffmpeg is not installed; `apt-get install ffmpeg` brings it") from error
