"""The sound of a sample: placed under its frames by timestamps, mixed to stereo, resampled to 16 kHz."""

from __future__ import annotations

import re
from math import ceil, floor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torchaudio.functional

from ltxcore.media.errors import MediaError
from ltxcore.media.ffmpeg_process import last_words, open_input, run_tool
from ltxcore.media.speakers import stereo_weights
from ltxcore.media.streams import AudioStream, check_file, ffprobe_streams, first_sound
from ltxcore.store.snapshot import AudioPlan

SAMPLE_RATE = 16000
AUDIO_TIMEOUT_S = 300.0
AROUND_S = 0.1
"""Sound decoded before and after the plan's stretch, so that cutting never meets a missing block."""
JUMP_S = 0.010
"""Blocks whose timestamps miss the end of the block before by less follow it directly: containers round."""
MISSING_S = 0.050
"""Sound that may be missing after a decoding error: the priming of a codec, not a hole."""

_BLOCK = re.compile(
    r"\] n:\s*\d+ pts:\s*(-?\d+) .*?channels:(\d+) chlayout:(.+?) rate:(\d+) nb_samples:(\d+)"
)
_FAULT = re.compile(r"\[(?:error|fatal)\]")


class _Sound(NamedTuple):
    samples: npt.NDArray[np.float32]
    """`[n, channels]` at `rate`; sample 0 is heard at the plan's start."""
    rate: int
    layout: str
    heard: npt.NDArray[np.bool_]
    """`[n]`: whether the file had a sample there; the others are zeros."""


def decode_audio(path: Path, plan: AudioPlan) -> torch.Tensor:
    """Decode the sound under a sample's frames: float32 `[2, N]` at 16 kHz, N = round(duration_s · 16000).

    Sample 0 is what is heard at `plan.start_s` on the container's clock, so a sound track that begins
    later is preceded by zeros and one that begins earlier is cut. Resampling is torchaudio's windowed sinc
    with its defaults (width 6, roll-off 0.99). `stereo_weights` says how channels become two. Silence that
    stands for a clip's missing sound is zeros, and no file is opened for it.

    Raises:
        MediaError: no sound track any more, or a part of the stretch does not decode (with what ffmpeg said).
        Undecided: ffmpeg took too long, or was stopped.
        ToolMissing: ffmpeg is not installed.
    """
    wanted = round(plan.duration_s * SAMPLE_RATE)
    if plan.is_silence:
        return torch.zeros(2, wanted)
    check_file(path)
    stream = first_sound(ffprobe_streams(path, "a sound"))
    if stream is None:
        raise MediaError("is no longer the file that was probed: it has no sound")
    sound = _decode(path, stream, plan)
    stereo = down_mix(torch.from_numpy(sound.samples.T.copy()), sound.layout)
    resampled: torch.Tensor = torchaudio.functional.resample(stereo, sound.rate, SAMPLE_RATE)
    return resampled[:, :wanted].contiguous()


def down_mix(sound: torch.Tensor, layout: str) -> torch.Tensor:
    """`[channels, n]` to stereo `[2, n]`, with the weights of `stereo_weights`.

    Nothing is scaled down afterwards, so dialogue keeps its level and peaks may pass 1.

    Raises:
        MediaError: a layout whose speakers are not known.
    """
    channels = len(sound)
    if channels == 1:
        return sound.expand(2, -1)
    weights = torch.tensor(stereo_weights(layout, channels), dtype=sound.dtype)
    return weights.T @ sound


def _decode(path: Path, stream: AudioStream, plan: AudioPlan) -> _Sound:
    start_s, end_s = plan.start_s - AROUND_S, plan.start_s + plan.duration_s + AROUND_S
    source = open_input(path, copyts=None)[str(stream.index)]
    cut = source.filter("atrim", start=f"{start_s:.6f}", end=f"{end_s:.6f}").filter("asettb", "1/sr")
    output = cut.filter("ashowinfo").output("pipe:1", format="f32le", acodec="pcm_f32le")
    done = run_tool(
        output.compile(cmd=["ffmpeg", "-nostdin", "-nostats", "-hide_banner", "-v", "level+info"]),
        AUDIO_TIMEOUT_S,
    )
    report = done.stderr.decode("utf-8", "replace")
    faults = "\n".join(line for line in report.splitlines() if _FAULT.search(line))
    blocks = [match.groups() for match in map(_BLOCK.search, report.splitlines()) if match]
    if not blocks:
        if faults or done.returncode != 0:
            raise MediaError(f"its sound does not decode; ffmpeg says: {last_words(faults or report, path)}")
        raise MediaError(f"has no sound between {start_s:.2f} s and {end_s:.2f} s")
    sound = _place(blocks, np.frombuffer(done.stdout, np.float32), plan)
    if faults:
        _check_whole(sound, stream, plan, last_words(faults, path))
    return sound


def _place(blocks: list[tuple[str, ...]], raw: npt.NDArray[np.float32], plan: AudioPlan) -> _Sound:
    """Lay the decoded blocks on the plan's own time line, each where its timestamp puts it."""
    _, channels, layout, rate = blocks[0][0], int(blocks[0][1]), blocks[0][2], int(blocks[0][3])
    if len(raw) != channels * sum(int(block[4]) for block in blocks):
        raise MediaError("its sound changes its channels or its rate in the middle")
    samples = raw.reshape(-1, channels)
    length = ceil(plan.duration_s * rate) + ceil(JUMP_S * rate)
    line = np.zeros((length, channels), np.float32)
    heard = np.zeros(length, np.bool_)
    origin = round(plan.start_s * rate)
    read, here = 0, None
    for pts, _, _, _, count in blocks:
        at = int(pts) - origin
        if here is not None and abs(at - here) < JUMP_S * rate:
            at = here
        size = int(count)
        first, last = max(0, at), min(length, at + size)
        if first < last:
            line[first:last] = samples[read + first - at : read + last - at]
            heard[first:last] = True
        read, here = read + size, at + size
    return _Sound(line, rate, layout, heard)


def _check_whole(sound: _Sound, stream: AudioStream, plan: AudioPlan, said: str) -> None:
    """After a fault, everything that the track declares within the plan's stretch must still be there."""
    first_s = max(0.0, stream.start_s - plan.start_s)
    declared_s = plan.duration_s
    if stream.duration_s is not None:
        declared_s = min(declared_s, stream.start_s + stream.duration_s - plan.start_s)
    expected = sound.heard[floor(first_s * sound.rate) : floor(declared_s * sound.rate)]
    missing_s = float((~expected).sum()) / sound.rate
    if missing_s > MISSING_S:
        raise MediaError(f"{missing_s:.2f} s of its sound do not decode; ffmpeg says: {said}")
