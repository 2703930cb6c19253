"""Loudness, silence and true length of a sound track, from one decode."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import ffmpeg

from ltxcore.media.errors import MediaError
from ltxcore.media.ffmpeg_process import FFMPEG, last_words, open_input, run_tool
from ltxcore.media.streams import AudioStream

LOUDNESS_TIMEOUT_S = 300.0
SILENCE_LUFS = -70.0
"""The absolute gate of EBU R128: ffmpeg reports it when nothing is louder."""
SILENCE_LEVEL = "-60dB"
SHORTEST_SILENCE_S = 0.1

_LOUDNESS = re.compile(rb"^\s*I:\s*(-?[\d.]+|-inf|nan) LUFS", re.MULTILINE)
_SILENCE = re.compile(rb"silence_duration: ([\d.]+)")
_OPEN_SILENCE = re.compile(rb"silence_(start|end): (-?[\d.]+)")
_SAMPLES = re.compile(rb"Number of samples: (\d+)")


class Loudness(NamedTuple):
    """Measures of a whole sound track."""

    lufs: float | None
    """Integrated loudness after EBU R128; None when it is silent."""
    silence_share: float
    """The part of its time in which nothing passes -60 dBFS for 0.1 s or longer, 0 to 1."""
    duration_s: float
    """Decoded samples over their rate: headers may be wrong or missing."""


def measure_loudness(path: Path, stream: AudioStream) -> Loudness:
    """Decode a sound track once and measure it.

    Raises:
        MediaError: the sound cannot be decoded.
        Undecided: it takes longer than `LOUDNESS_TIMEOUT_S`.
        ToolMissing: ffmpeg is not installed.
    """
    if stream.codec == "unknown":
        raise MediaError("its sound is in a codec that nobody here knows; convert it, e.g. to AAC")
    command = loudness_output(path, stream).compile(cmd=[*FFMPEG, "-v", "info"])
    done = run_tool(command, LOUDNESS_TIMEOUT_S)
    found = read_loudness(done.stderr, stream) if done.returncode == 0 else None
    if found is None:
        raise MediaError(f"its sound cannot be decoded; ffmpeg says: {last_words(done.stderr, path)}")
    return found


def loudness_output(path: Path, stream: AudioStream) -> Any:
    """ffmpeg-python's output that decodes a sound track and says what it measures at log level `info`."""
    opened = open_input(path, vn=None)
    source = opened[str(stream.index)]
    if stream.right is not None:
        source = ffmpeg.filter([source, opened[str(stream.right)]], "amerge", inputs=2)
    counted = source.filter("astats", measure_perchannel="none", measure_overall="Number_of_samples")
    quiet = counted.filter("silencedetect", noise=SILENCE_LEVEL, duration=SHORTEST_SILENCE_S)
    return quiet.filter("ebur128", framelog="verbose").output("pipe:", format="null")


def read_loudness(said: bytes, stream: AudioStream) -> Loudness | None:
    """The measures in what ffmpeg said of `loudness_output`; None where it got to none."""
    loudness, samples = _LOUDNESS.findall(said), _SAMPLES.findall(said)
    if not loudness or not samples:
        return None
    duration_s = int(samples[-1]) / stream.rate
    value = float(loudness[-1])
    return Loudness(
        lufs=value if value > SILENCE_LUFS else None,
        silence_share=_silence_share(said, stream.start_s + duration_s, duration_s),
        duration_s=duration_s,
    )


def _silence_share(report: bytes, end_s: float, duration_s: float) -> float:
    silent_s = sum(float(length) for length in _SILENCE.findall(report))
    marks = _OPEN_SILENCE.findall(report)
    if marks and marks[-1][0] == b"start":
        silent_s += max(0.0, end_s - float(marks[-1][1]))
    return round(min(1.0, silent_s / duration_s), 4) if duration_s > 0 else 1.0
