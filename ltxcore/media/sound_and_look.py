"""The loudness and the look of a clip, by one ffmpeg: starting it takes longer than decoding a short clip."""

from __future__ import annotations

from pathlib import Path

import ffmpeg

from ltxcore.media.errors import Undecided
from ltxcore.media.ffmpeg_process import run_tool
from ltxcore.media.likeness import LOOK_BYTES, LOOK_TIMEOUT_S, look_of, look_output, read_look
from ltxcore.media.loudness import (
    LOUDNESS_TIMEOUT_S,
    Loudness,
    loudness_output,
    measure_loudness,
    read_loudness,
)
from ltxcore.media.streams import AudioStream


def measure(
    path: Path, index: int, duration_s: float, sound: AudioStream | None
) -> tuple[str | None, Loudness | None]:
    """The look of the picture track `index` and, where there is one, the measures of the sound track.

    Raises:
        MediaError: the sound cannot be decoded.
        Undecided: decoding it takes too long.
        ToolMissing: ffmpeg is not installed.
    """
    if sound is None:
        return look_of(path, index, duration_s), None
    outputs = look_output(path, index, duration_s), loudness_output(path, sound)
    command = ffmpeg.merge_outputs(*outputs).compile(cmd=["ffmpeg", "-nostdin", "-nostats", "-v", "info"])
    try:
        done = run_tool(command, LOUDNESS_TIMEOUT_S + LOOK_TIMEOUT_S)
    except Undecided:
        pass
    else:
        loudness = read_loudness(done.stderr, sound)
        if done.returncode == 0 and len(done.stdout) == LOOK_BYTES and loudness is not None:
            return read_look(done.stdout), loudness
    # Each alone: a fault in one track must not be taken for one in the other.
    return look_of(path, index, duration_s), measure_loudness(path, sound)
