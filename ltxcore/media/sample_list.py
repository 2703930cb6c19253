"""What the sample clips show and sound like, and the captions that say so."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

Motion = Literal["right", "left", "up", "down", "circle"]


@dataclass(frozen=True)
class SampleClip:
    """One shape that moves over a vertical gradient, and a tone that moves with it."""

    name: str
    size: tuple[int, int]
    rate: str
    frames: int
    colour: str
    shape: Literal["disc", "box"]
    motion: Motion
    background: tuple[str, str] = ("203040", "506880")
    scale: float = 0.3
    """Edge of the shape as a share of the picture's shorter edge."""
    channels: Literal[0, 1, 2, 6] = 2
    pitch_hz: tuple[float, float] = (220.0, 440.0)
    audio_rate: int = 48000
    video_codec: Literal["libx264", "libvpx-vp9"] = "libx264"
    audio_codec: str = "aac"
    jitter_s: float = 0.0
    """Amplitude of the irregularity of the timestamps; 0 gives a constant frame rate."""
    turned: bool = False
    """Stored as `size`, shown turned by 90 degrees clockwise."""

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return float(self.frames / Fraction(self.rate))

    def position(self) -> tuple[str, str]:
        """The shape's left and top edge, as expressions of ffmpeg's overlay in the time t."""
        share = f"min(t/{self.duration_s:.6f},1)"
        middle = ("(W-w)/2", "(H-h)/2")
        return {
            "right": (f"(W-w)*{share}", middle[1]),
            "left": (f"(W-w)*(1-{share})", middle[1]),
            "down": (middle[0], f"(H-h)*{share}"),
            "up": (middle[0], f"(H-h)*(1-{share})"),
            "circle": (
                f"(W-w)/2+min(W-w,H-h)*0.45*cos(2*PI*{share})",
                f"(H-h)/2+min(W-w,H-h)*0.45*sin(2*PI*{share})",
            ),
        }[self.motion]

    def tones(self) -> list[str]:
        """One expression in t for each channel: the pitch follows the motion, the balance the place."""
        low, high = self.pitch_hz
        length = self.duration_s
        turns = f"({low:g}*t+{(high - low) / (2 * length):.6f}*t*t)"
        share = f"t/{length:.6f}"
        if self.motion == "circle":
            swing = (high - low) / 2
            turns = f"({low + swing:g}*t-{swing * length / 6.283185307:.6f}*cos(2*PI*{share}))"
            share = f"(0.5+0.5*cos(2*PI*{share}))"
        tone = f"sin(2*PI*{turns})"
        if self.channels == 1:
            return [f"0.4*{tone}"]
        to_right = {"right": share, "left": f"(1-{share})", "circle": share}.get(self.motion, "0.5")
        sides = [f"0.4*(1-0.8*{to_right})*{tone}", f"0.4*(0.2+0.8*{to_right})*{tone}"]
        if self.channels == 2:
            return sides
        quiet = f"0.1*sin(PI*{turns})"
        return [f"0.3*{sides[0]}", f"0.3*{sides[1]}", f"0.4*{tone}", "0.2*sin(2*PI*50*t)", quiet, quiet]


CLIPS = (
    SampleClip("red-disc-right.mp4", (256, 160), "25", 50, "red", "disc", "right"),
    SampleClip("blue-box-up.mp4", (160, 256), "24", 48, "blue", "box", "up", ("e0d8c8", "b0a890")),
    SampleClip(
        "green-disc-left.mov",
        (192, 192),
        "30000/1001",
        54,
        "lime",
        "disc",
        "left",
        ("181818", "484848"),
        pitch_hz=(520.0, 260.0),
        audio_codec="pcm_s16le",
    ),
    SampleClip(
        "yellow-box-down.mkv",
        (320, 180),
        "50",
        80,
        "yellow",
        "box",
        "down",
        ("401858", "200828"),
        channels=1,
        pitch_hz=(600.0, 200.0),
        audio_codec="libopus",
    ),
    SampleClip(
        "white-disc-circle-surround.mkv",
        (256, 160),
        "25",
        50,
        "white",
        "disc",
        "circle",
        ("102850", "307090"),
        channels=6,
        audio_codec="flac",
    ),
    SampleClip(
        "purple-box-irregular.mp4",
        (192, 192),
        "30",
        54,
        "purple",
        "box",
        "right",
        ("c8e0c8", "88a888"),
        channels=1,
        audio_rate=44100,
        jitter_s=0.011,
    ),
    SampleClip(
        "orange-disc-silent.mp4",
        (256, 160),
        "25",
        50,
        "orange",
        "disc",
        "down",
        ("203020", "385838"),
        channels=0,
    ),
    SampleClip(
        "cyan-disc-telephone.mp4",
        (320, 192),
        "30",
        60,
        "cyan",
        "disc",
        "left",
        ("503028", "281410"),
        turned=True,
    ),
    SampleClip(
        "twin.mp4", (192, 192), "25", 45, "red", "box", "left", ("f0f0f0", "c0c0c0"), pitch_hz=(700.0, 350.0)
    ),
    SampleClip(
        "twin.mov", (192, 192), "25", 45, "blue", "disc", "up", ("302010", "604020"), pitch_hz=(180.0, 540.0)
    ),
    SampleClip(
        "pink-disc-down.mkv",
        (160, 288),
        "24",
        40,
        "hotpink",
        "disc",
        "down",
        ("102030", "304858"),
        video_codec="libvpx-vp9",
        audio_codec="libopus",
        pitch_hz=(640.0, 240.0),
    ),
    SampleClip(
        "more/teal-box-circle.mov",
        (256, 256),
        "50",
        75,
        "teal",
        "box",
        "circle",
        ("e8c8a0", "c09868"),
        scale=0.25,
        audio_rate=44100,
        pitch_hz=(300.0, 600.0),
    ),
    SampleClip(
        "more/silver-disc-up.mp4",
        (320, 180),
        "30000/1001",
        48,
        "silver",
        "disc",
        "up",
        ("280838", "580878"),
        scale=0.4,
        channels=1,
    ),
    SampleClip("no-caption.mp4", (256, 160), "25", 40, "lime", "box", "right", ("383838", "101010")),
    SampleClip("too-short.mp4", (256, 160), "25", 3, "red", "disc", "right"),
)

BAD_FILES: dict[str, SampleClip | str] = {
    "corrupt-tail.mp4": SampleClip("corrupt-tail.mp4", (256, 160), "25", 50, "gold", "disc", "circle"),
    "not-a-video.mp4": "This is a note about the clips, saved under the wrong name.",
}

CAPTIONS = {
    "red-disc-right.txt": "A red disc moves from left to right over dark blue while a tone rises.",
    "blue-box-up.txt": "A blue box climbs through a tall beige picture, and a tone climbs with it.",
    "green-disc-left.txt": "A green disc glides from right to left over dark grey. A tone falls.",
    "yellow-box-down.txt": "A yellow box sinks down a purple background; its tone sinks too.",
    "white-disc-circle-surround.txt": (
        "A white disc runs around in a circle over a blue background.\n"
        "A white ball circles once, and a tone swings up and down with it.\n"
        "A circling white disc on blue, with a swinging tone in the middle of the room."
    ),
    "purple-box-irregular.txt": "A purple box moves from left to right over pale green while a tone rises.",
    "orange-disc-silent.txt": "An orange disc falls over a dark green background. There is no sound.",
    "cyan-disc-telephone.txt": (
        "A cyan disc rises through a tall brown picture filmed with a telephone. A tone rises with it."
    ),
    "twin.mp4.txt": "A red box moves from right to left over a white background while a high tone falls.",
    "twin.mov.txt": "A blue disc rises over a brown background, and a low tone rises far up.",
    "pink-disc-down.txt": "A pink disc drops through a tall dark blue picture while a tone drops.",
    "more/teal-box-circle.txt": "A teal box runs in a circle over sand; a tone swings with it.",
    "more/silver-disc-up.txt": "A large silver disc rises over violet, and a tone rises with it.",
    "too-short.txt": "A red disc, for an instant.",
    "corrupt-tail.txt": "A gold disc runs in a circle over dark blue while a tone swings up and down.",
    "not-a-video.txt": "This file has a caption, but it is not a video.",
}
