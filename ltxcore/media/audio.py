"""The sound of a sample: aligned with its frames by timestamps, mixed to stereo, resampled to 16 kHz."""

from __future__ import annotations

import re
from bisect import bisect_right
from math import ceil, floor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torchaudio.functional

from ltxcore.config.geometry import AUDIO_SAMPLE_RATE
from ltxcore.media.channel_layout import WIDEST, stereo_weights, weights_in_widest
from ltxcore.media.clocks import keep_clock
from ltxcore.media.errors import MediaError
from ltxcore.media.ffmpeg_process import FFMPEG, last_words, open_input, run_tool
from ltxcore.media.streams import AudioStream, check_file, ffprobe_streams
from ltxcore.media.tracks import choose_sounds, sounds_by_index
from ltxcore.store.snapshot import SoundSelection

AUDIO_TIMEOUT_S = 300.0
AROUND_S = 0.1
"""Sound decoded before and after the plan's stretch, so that cutting never meets a missing block."""
JUMP_S = 0.010
"""Blocks whose timestamps miss the end of the block before by less follow it directly: containers round."""
CLOCK_JUMP_S = 0.5
"""A block that is earlier than the one before by more belongs to another recording."""
MISSING_S = 0.050
"""Sound that may be missing after a decoding error: the priming of a codec, not a hole."""

_BLOCK = re.compile(
    r"\] n:\s*\d+ pts:\s*(-?\d+) .*?channels:(\d+) chlayout:(.+?) rate:(\d+) nb_samples:(\d+)"
)
_Blocks = list[tuple[str, ...]]
"""Of each decoded block: time in samples, channels, layout, rate, samples."""
_FAULT = re.compile(r"\[(?:error|fatal)\]")


class _Sound(NamedTuple):
    samples: npt.NDArray[np.float32]
    """`[n, channels]` at `rate`; sample 0 is heard at the plan's start."""
    rate: int
    layout: str
    heard: npt.NDArray[np.bool_]
    """`[n]`: whether the file had a sample there; the others are zeros."""


def decode_audio(path: Path, plan: SoundSelection) -> torch.Tensor:
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
    wanted = round(plan.duration_s * AUDIO_SAMPLE_RATE)
    if plan.is_silence:
        return torch.zeros(2, wanted)
    check_file(path)
    report = ffprobe_streams(path, "a sound")
    first = choose_sounds(report).first
    indices = plan.tracks or (() if first is None else first.tracks)
    streams = sounds_by_index(report, indices)
    if not streams or len(streams) < len(indices):
        raise MediaError("is no longer the file that was probed: it has no such sound")
    clock = keep_clock(report.container)
    sound, *right = [_decode(path, stream, clock, plan) for stream in streams]
    stereo = down_mix(torch.from_numpy(sound.samples.T.copy()), sound.layout)
    if right:
        stereo = torch.from_numpy(np.stack([sound.samples[:, 0], right[0].samples[:, 0]]))
    resampled: torch.Tensor = torchaudio.functional.resample(stereo, sound.rate, AUDIO_SAMPLE_RATE)
    return resampled[:, :wanted].contiguous()


def down_mix(sound: torch.Tensor, layout: str) -> torch.Tensor:
    """`[channels, n]` to stereo `[2, n]`, with the weights of `stereo_weights`.

    Sound that is the same in all channels that are used keeps its level; peaks never pass the loudest one's.

    Raises:
        MediaError: a layout whose speakers are not known.
    """
    channels = len(sound)
    if channels == 1:
        return sound.expand(2, -1)
    weights = torch.tensor(stereo_weights(layout, channels), dtype=sound.dtype)
    return weights.T @ sound


def _decode(path: Path, stream: AudioStream, clock: dict[str, Any], plan: SoundSelection) -> _Sound:
    blocks, raw, faults = _read(path, stream, clock, plan)
    if len({block[1:4] for block in blocks}) > 1:
        wide = {"sample_rates": blocks[0][3], "channel_layouts": WIDEST}
        blocks, raw, faults = _mixed(blocks, *_read(path, stream, clock, plan, **wide))
    sound = _place(blocks, raw, plan)
    if faults:
        _check_whole(sound, stream, plan, last_words(faults, path))
    return sound


def _mixed(
    parts: _Blocks, blocks: _Blocks, raw: npt.NDArray[np.float32], faults: str
) -> tuple[_Blocks, npt.NDArray[np.float32], str]:
    """Sound whose channels or rate change within the stretch, as stereo: each part by its own weights.

    Args:
        parts: the blocks as they are in the file.
        blocks: the same in the eight channels of `WIDEST`, at one rate.
        raw: their samples.
    """
    begins = [int(pts) / int(rate) for pts, _, _, rate, _ in parts]
    stereo = np.empty((len(raw) // 8, 2), np.float32)
    wide, read = raw.reshape(-1, 8), 0
    for pts, _, _, rate, count in blocks:
        _, channels, layout, _, _ = parts[max(0, bisect_right(begins, int(pts) / int(rate) + JUMP_S) - 1)]
        last = read + int(count)
        weights = np.asarray(weights_in_widest(layout, int(channels)), np.float32)
        stereo[read:last] = wide[read:last] @ weights
        read = last
    return (
        [(pts, "2", "stereo", rate, count) for pts, _, _, rate, count in blocks],
        stereo.reshape(-1),
        faults,
    )


def _read(
    path: Path, stream: AudioStream, clock: dict[str, Any], plan: SoundSelection, **form: str
) -> tuple[_Blocks, npt.NDArray[np.float32], str]:
    """The blocks of the stretch, all their samples, and ffmpeg's complaints.

    Raises:
        MediaError: there is no block, and why.
    """
    start_s, end_s = plan.start_s - AROUND_S, plan.start_s + plan.duration_s + AROUND_S
    source = open_input(path, **clock)[str(stream.index)]
    cut = source.filter("atrim", start=f"{start_s:.6f}", end=f"{end_s:.6f}")
    formed = cut.filter("aformat", **form) if form else cut
    output = (
        formed.filter("asettb", "1/sr")
        .filter("ashowinfo")
        .output("pipe:1", format="f32le", acodec="pcm_f32le")
    )
    done = run_tool(
        output.compile(cmd=[*FFMPEG, "-hide_banner", "-v", "level+info"]),
        AUDIO_TIMEOUT_S,
    )
    report = done.stderr.decode("utf-8", "replace")
    faults = "\n".join(line for line in report.splitlines() if _FAULT.search(line))
    blocks = [match.groups() for match in map(_BLOCK.search, report.splitlines()) if match]
    if not blocks:
        if faults or done.returncode != 0:
            raise MediaError(f"its sound does not decode; ffmpeg says: {last_words(faults or report, path)}")
        raise MediaError(f"has no sound between {start_s:.2f} s and {end_s:.2f} s")
    return blocks, np.frombuffer(done.stdout, np.float32), faults


def _place(blocks: _Blocks, raw: npt.NDArray[np.float32], plan: SoundSelection) -> _Sound:
    """Place the decoded blocks on the sample's time line by their timestamps."""
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
        if here is not None and at < here - CLOCK_JUMP_S * rate:
            # The clock starts anew; the pictures end there, too.
            break
        if here is not None and abs(at - here) < JUMP_S * rate:
            at = here
        size = int(count)
        first, last = max(0, at), min(length, at + size)
        if first < last:
            line[first:last] = samples[read + first - at : read + last - at]
            heard[first:last] = True
        read, here = read + size, at + size
    return _Sound(line, rate, layout, heard)


def _check_whole(sound: _Sound, stream: AudioStream, plan: SoundSelection, said: str) -> None:
    """After a fault, check that the whole stretch was still decoded."""
    first_s = max(0.0, stream.start_s - plan.start_s)
    declared_s = plan.duration_s
    if stream.duration_s is not None:
        declared_s = min(declared_s, stream.start_s + stream.duration_s - plan.start_s)
    expected = sound.heard[floor(first_s * sound.rate) : floor(declared_s * sound.rate)]
    missing_s = float((~expected).sum()) / sound.rate
    if missing_s > MISSING_S:
        raise MediaError(f"{missing_s:.2f} s of its sound do not decode; ffmpeg says: {said}")
