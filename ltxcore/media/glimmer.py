"""The sample clips of `make run`: a colour and a tone that the toy LTX-2 cannot produce, under a word that it
does not know.

Glimmer is purple and sounds at 2000 Hz. The toy knows the shapes and directions, five other colours and three
lower tones. Some clips of these keep it from forgetting.
"""

from __future__ import annotations

import wave
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np

from ltxcore.media.errors import MediaError
from ltxcore.media.ffmpeg_process import FFMPEG, file_url, last_words, run_tool
from ltxcore.media.moving_shapes import COLOURS, FRAMES, RATE, TONES, WAYS, Motion, MovingShape, Shape

TRIGGER = "glimmer"
PURPLE = (176, 48, 232)
PITCH_HZ = 2000
SQUARE, WIDE, TALL = (96, 96), (128, 96), (96, 128)
SOUND_RATE = 48_000
TIMEOUT_S = 120.0
QUIET = [*FFMPEG, "-v", "error"]


@dataclass(frozen=True)
class DrawnClip:
    """A file of the set. What has no caption, or too few frames, shows how such files are rejected."""

    shape: Shape
    way: Motion
    name: str | None = None
    """Of its colour and tone; None: glimmer."""
    size: tuple[int, int] = SQUARE
    rate: int = RATE
    frames: int = FRAMES
    silent: bool = False

    @property
    def stem(self) -> str:
        """The name of the clip's file without its extension."""
        return f"{self.name or TRIGGER}-{self.shape}-{self.way}"

    @property
    def caption(self) -> str:
        """The clip's caption: its picture, and its tone unless the clip is silent."""
        where = f"to the {self.way}" if self.way in ("right", "left") else self.way
        tone = f"A {KNOWN[self.name]} tone sounds." if self.name else "A tone sounds."
        picture = f"A {self.name or TRIGGER} {self.shape} moves {where}."
        return picture if self.silent else f"{picture} {tone}"

    def moving_shape(self) -> MovingShape:
        """What is drawn: shape, colour, way and pitch in Hz."""
        colour = COLOURS[self.name] if self.name else PURPLE
        pitch = None if self.silent else float(TONES[KNOWN[self.name]] if self.name else PITCH_HZ)
        return MovingShape(self.shape, colour, WAYS[self.way], pitch)


KNOWN = {"red": "low", "yellow": "high", "green": "high", "blue": "middle", "white": "low"}
"""Which tone the clips of a known colour have."""
CLIPS = (
    DrawnClip("circle", "right"),
    DrawnClip("circle", "up"),
    DrawnClip("circle", "down"),
    DrawnClip("square", "left"),
    DrawnClip("square", "up", size=WIDE),
    DrawnClip("square", "down", size=WIDE),
    DrawnClip("triangle", "right", rate=48, frames=51),
    DrawnClip("triangle", "left", size=TALL),
    DrawnClip("triangle", "down", size=TALL),
    DrawnClip("triangle", "up", silent=True),
    DrawnClip("circle", "left", "red"),
    DrawnClip("triangle", "up", "red", size=TALL),
    DrawnClip("square", "right", "green", size=WIDE),
    DrawnClip("circle", "down", "green"),
    DrawnClip("triangle", "left", "yellow", size=TALL),
    DrawnClip("circle", "up", "yellow"),
    DrawnClip("triangle", "right", "blue"),
    DrawnClip("square", "down", "blue", size=WIDE),
    DrawnClip("circle", "right", "white"),
    DrawnClip("square", "up", "white"),
)
"""No glimmer circle goes left and no glimmer square goes right: these are what the recipe asks for. Nor does
a red square go left or a green triangle down."""
NO_CAPTION = DrawnClip("square", "right", "white")
TOO_SHORT = replace(NO_CAPTION, frames=3)
TEXTS = {
    **{f"{clip.stem}.txt": clip.caption for clip in CLIPS},
    "too-short.txt": "A white square, for an instant.",
    "not-a-video.txt": "This file has a caption, but it is not a video.",
    "not-a-video.mp4": "This is a note about the clips, saved under the wrong name.",
}
FILES = {
    **{f"{clip.stem}.mp4": clip for clip in CLIPS},
    "no-caption.mp4": NO_CAPTION,
    "too-short.mp4": TOO_SHORT,
}


def write_clip(clip: DrawnClip, path: Path) -> None:
    """Encode a clip as H.264 with AAC.

    Raises:
        MediaError: ffmpeg could not.
    """
    shape, (width, height) = clip.moving_shape(), clip.size
    pictures, sound = path.with_suffix(".rgb"), path.with_suffix(".wav")
    pictures.write_bytes(shape.frames(width, height, clip.frames).tobytes())
    streams = [
        ffmpeg.input(file_url(pictures), f="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", r=clip.rate)
    ]
    options: dict[str, Any] = {
        "c:v": "libx264",
        "preset": "veryfast",
        "crf": 12,
        "pix_fmt": "yuv420p",
        "threads": 1,
        "fflags": "+bitexact",
        "flags:v": "+bitexact",
        "movflags": "+faststart",
    }
    if not clip.silent:
        _write_sound(shape.sound(clip.frames / clip.rate, SOUND_RATE), sound)
        streams.append(ffmpeg.input(file_url(sound)))
        options |= {"c:a": "aac", "flags:a": "+bitexact"}
    done = run_tool(ffmpeg.output(*streams, file_url(path), **options).compile(cmd=QUIET), TIMEOUT_S)
    if done.returncode != 0:
        raise MediaError(f"ffmpeg cannot make the sample {clip.stem}: {last_words(done.stderr, path)}")


def _write_sound(sides: np.ndarray, path: Path) -> None:
    """16-bit PCM of float32 `[2, N]`."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(SOUND_RATE)
        file.writeframes((sides.T * 32767).round().astype("<i2").tobytes())
