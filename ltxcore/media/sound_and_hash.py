"""Loudness and perceptual hash of a clip by one ffmpeg, whose start takes longer than decoding a short
clip."""

from __future__ import annotations

from pathlib import Path

import ffmpeg

from ltxcore.media.errors import Undecided
from ltxcore.media.ffmpeg_process import FFMPEG, run_tool
from ltxcore.media.loudness import (
    LOUDNESS_TIMEOUT_S,
    Loudness,
    loudness_output,
    measure_loudness,
    read_loudness,
)
from ltxcore.media.perceptual_hash import (
    HASH_BYTES,
    HASH_TIMEOUT_S,
    Pictures,
    hash_of_clip,
    hash_output,
    read_hash,
)
from ltxcore.media.streams import AudioStream


def measure(path: Path, pictures: Pictures, sound: AudioStream | None) -> tuple[str | None, Loudness | None]:
    """The perceptual hash of a picture track and, if there is one, the loudness of the sound track.

    Raises:
        MediaError: the sound cannot be decoded.
        Undecided: decoding it takes too long.
        ToolMissing: ffmpeg is not installed.
    """
    if sound is None:
        return hash_of_clip(path, pictures), None
    outputs = hash_output(path, pictures), loudness_output(path, sound)
    command = ffmpeg.merge_outputs(*outputs).compile(cmd=[*FFMPEG, "-v", "info"])
    try:
        done = run_tool(command, LOUDNESS_TIMEOUT_S + HASH_TIMEOUT_S)
    except Undecided:
        pass
    else:
        loudness = read_loudness(done.stderr, sound)
        if done.returncode == 0 and len(done.stdout) == HASH_BYTES and loudness is not None:
            return read_hash(done.stdout), loudness
    # Each alone: a fault in one track must not be taken for one in the other.
    return hash_of_clip(path, pictures), measure_loudness(path, sound)
