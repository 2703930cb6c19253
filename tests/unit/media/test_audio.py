"""Sound: in sync with the frames, mixed by weights, to the sample."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ltxcore.config.dataset_kinds import VideoDataset
from ltxcore.config.geometry import AUDIO_SAMPLE_RATE
from ltxcore.media.audio import decode_audio, down_mix
from ltxcore.media.dataset_files import Bounds
from ltxcore.media.decode import decode_frames
from ltxcore.media.errors import MediaError
from ltxcore.media.frame_selection import make_sample
from ltxcore.media.probe import probe
from ltxcore.store.snapshot import Sample, SoundSelection
from tests.unit.media.clips import ffmpeg

BEEP_S = 0.48
DATASET = VideoDataset(
    id="d", dataset_type="video", instance_data_dir="x", resolution=64, caption_strategy="filename",
    video={"num_frames": 25},
)  # fmt: skip


def plan(path: Path, dataset: VideoDataset = DATASET) -> Sample:
    return make_sample(dataset, Bounds(path.parent), path, "m", probe(path))


def sound(path: Path, start_s: float = 0.0, duration_s: float = 1.0) -> torch.Tensor:
    return decode_audio(
        path, SoundSelection(start_s=start_s, duration_s=duration_s, channels=2, layout="stereo")
    )


def beep(rate: int = 48000, at_s: float = BEEP_S, length_s: float = 0.1, seconds: float = 2.0) -> str:
    return f"aevalsrc='0.5*sin(2*PI*1000*t)*between(t,{at_s},{at_s + length_s})':s={rate}:d={seconds}"


def onset_s(waveform: torch.Tensor) -> float:
    return int((waveform.abs().amax(dim=0) > 0.1).nonzero()[0]) / AUDIO_SAMPLE_RATE


IRREGULAR = "settb=1/1000,setpts=round(1000*(N/30+0.011*sin(1.7*N)))"
FLASHES: dict[str, tuple[str, str, int, float, tuple[str, ...]]] = {
    "fifty.mp4": ("50", "null", 25, 0.5, ("-c:a", "aac")),
    "film.mkv": ("24000/1001", "null", 12, 12 * 1001 / 24000, ("-c:a", "libopus")),
    "film.mov": ("24000/1001", "null", 12, 12 * 1001 / 24000, ("-c:a", "pcm_s16le")),
    "irregular.mp4": (
        "30",
        IRREGULAR,
        14,
        round(1000 * (14 / 30 + 0.011 * math.sin(1.7 * 14))) / 1000,
        ("-c:a", "aac", "-enc_time_base:v", "1:1000"),
    ),
}


@pytest.mark.parametrize("name", FLASHES)
def test_a_beep_is_in_sync_with_its_flash(name: str, tmp_path: Path) -> None:
    rate, timing, number, flash_s, options = FLASHES[name]
    clip = tmp_path / name
    flash = f"color=black:s=64x64:r={rate}:d=2,drawbox=c=white:t=fill:enable='gte(n,{number})',{timing}"
    tone = beep(at_s=flash_s)
    ffmpeg(
        "-f", "lavfi", "-i", flash, "-f", "lavfi", "-i", tone, "-fps_mode:v", "passthrough", *options,
        str(clip),
    )  # fmt: skip
    sample = plan(clip)
    assert sample.audio is not None
    frames = decode_frames(clip, sample.frames, sample.geometry)
    waveform = decode_audio(clip, sample.audio)
    assert waveform.shape == (2, AUDIO_SAMPLE_RATE)
    first_lit = int(np.argmax(frames.mean(axis=(1, 2, 3)) > 128))
    assert first_lit == math.ceil(flash_s * 25 - 0.0125)
    assert onset_s(waveform) == pytest.approx(flash_s, abs=0.010)


def test_a_copy_that_begins_between_two_frames_stays_in_sync(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    flash = "color=black:s=64x64:r=25:d=2,drawbox=c=white:t=fill:enable='gte(n,25)'"
    ffmpeg(
        "-f", "lavfi", "-i", flash, "-f", "lavfi", "-i", beep(at_s=1.0), "-c:v", "libx264", "-bf", "2",
        "-pix_fmt", "yuv420p", str(whole),
    )  # fmt: skip
    ffmpeg("-ss", "0.37", "-i", str(whole), "-c", "copy", str(cut))
    sample = plan(cut)
    assert sample.audio is not None
    lit = int(np.argmax(decode_frames(cut, sample.frames, sample.geometry).mean(axis=(1, 2, 3)) > 128))
    assert sample.frames.start_s == pytest.approx(0.03)
    assert lit == 15
    assert onset_s(decode_audio(cut, sample.audio)) == pytest.approx(lit / 25, abs=0.005)


def test_a_pulse_keeps_its_place_to_the_sample(tmp_path: Path) -> None:
    clip = tmp_path / "pulse.mkv"
    pulse = "aevalsrc='eq(n,24000)*0.9':s=48000:d=1.5:c=mono"
    ffmpeg("-f", "lavfi", "-i", "color=s=32x32:d=1.5", "-f", "lavfi", "-i", pulse, "-c:a", "flac", str(clip))
    assert int(sound(clip)[0].abs().argmax()) == 8000
    assert int(sound(clip, 0.25, 0.5)[0].abs().argmax()) == 4000
    assert sound(clip, 0.25, 0.5).shape == (2, 8000)


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_sound_that_begins_late_is_preceded_by_silence(container: str, tmp_path: Path) -> None:
    clip = tmp_path / f"late.{container}"
    tone = "aevalsrc='0.5*sin(2*PI*500*t)':s=44100:d=1"
    ffmpeg(
        "-f", "lavfi", "-i", "color=s=64x64:r=25:d=2", "-itsoffset", "0.5", "-f", "lavfi", "-i", tone,
        "-c:a", "flac" if container == "mkv" else "aac", str(clip),
    )  # fmt: skip
    waveform = sound(clip)
    assert onset_s(waveform) == pytest.approx(0.5, abs=0.003)
    assert waveform[:, : int(0.45 * AUDIO_SAMPLE_RATE)].abs().max() < 1e-3
    assert waveform[:, 9000:].pow(2).mean().sqrt() == pytest.approx(0.5 / math.sqrt(2), rel=0.02)


def test_sound_that_begins_early_is_cut_at_the_first_frame(tmp_path: Path) -> None:
    clip = tmp_path / "early.mkv"
    ffmpeg(
        "-itsoffset", "0.4", "-f", "lavfi", "-i", "color=s=64x64:r=25:d=1.5", "-f", "lavfi", "-i", beep(),
        "-c:a", "flac", str(clip),
    )  # fmt: skip
    sample = plan(clip)
    assert sample.audio is not None
    assert sample.audio.start_s == 0.4
    assert onset_s(decode_audio(clip, sample.audio)) == pytest.approx(BEEP_S - 0.4, abs=0.002)


def test_sound_that_ends_early_is_followed_by_silence(tmp_path: Path) -> None:
    clip = tmp_path / "brief.mkv"
    tone = "aevalsrc='0.5*sin(2*PI*500*t)':s=48000:d=0.6"
    ffmpeg(
        "-f", "lavfi", "-i", "color=s=64x64:r=25:d=2", "-f", "lavfi", "-i", tone, "-c:a", "flac", str(clip)
    )
    waveform = sound(clip)
    assert waveform.shape == (2, AUDIO_SAMPLE_RATE)
    assert waveform[:, 9700:].abs().max() == 0
    with pytest.raises(MediaError, match="has no sound between"):
        sound(clip, 1.0, 0.5)


def test_surround_keeps_its_centre_and_drops_its_rumble(tmp_path: Path) -> None:
    clip = tmp_path / "surround.mkv"
    front = "0.2*sin(2*PI*400*t)"
    tones = f"{front}|0|0.4*sin(2*PI*1000*t)|0.8*sin(2*PI*50*t)|0|0.1*sin(2*PI*3000*t)"
    source = f"aevalsrc='{tones}':s=48000:d=1.2:c=5.1"
    ffmpeg("-f", "lavfi", "-i", "color=s=32x32:d=1.2", "-f", "lavfi", "-i", source, "-c:a", "flac", str(clip))
    spectrum = torch.fft.rfft(sound(clip)).abs() / (AUDIO_SAMPLE_RATE / 2)
    levels = {hertz: spectrum[:, hertz].tolist() for hertz in (400, 1000, 50, 3000)}
    assert levels[400] == pytest.approx([0.2 * 0.41425, 0], abs=1e-3)
    assert levels[1000] == pytest.approx([0.4 * 0.29287] * 2, abs=1e-3)
    assert levels[50] == pytest.approx([0, 0], abs=1e-3)
    assert levels[3000] == pytest.approx([0, 0.1 * 0.29287], abs=1e-3)


@pytest.mark.parametrize(
    ("layout", "channels"),
    [("mono", 1), ("stereo", 2), ("3.0", 3), ("4.0", 4), ("5.1(side)", 6), ("6.1", 7), ("7.1(wide)", 8)],
)
def test_the_same_sound_in_every_channel_keeps_its_level(layout: str, channels: int) -> None:
    torch.testing.assert_close(down_mix(torch.ones(channels, 8), layout), torch.ones(2, 8))


def test_mono_is_the_same_in_both_channels(sample_clips: Path) -> None:
    left, right = sound(sample_clips / "yellow-box-down.mkv")
    assert torch.equal(left, right)
    assert left.pow(2).mean().sqrt() == pytest.approx(0.4 / math.sqrt(2), rel=0.03)


@pytest.mark.parametrize(
    ("layout", "channels", "expected"),
    [
        ("mono", 1, [[1.0], [1.0]]),
        ("stereo", 2, [[1, 0], [0, 1]]),
        ("quad", 4, [[0.25] * 4] * 2),
        ("4.0", 4, [[0.25] * 4] * 2),
        (
            "unknown",
            6,
            [[0.41425, 0, 0.29287, 0, 0.29287, 0], [0, 0.41425, 0.29287, 0, 0, 0.29287]],
        ),
        (
            "7.1",
            8,
            [
                [0.32041, 0, 0.22653, 0, 0.22653, 0, 0.22653, 0],
                [0, 0.32041, 0.22653, 0, 0, 0.22653, 0, 0.22653],
            ],
        ),
        (
            "hexagonal",
            6,
            [[0.34317, 0, 0.24262, 0.24262, 0, 0.17159], [0, 0.34317, 0.24262, 0, 0.24262, 0.17159]],
        ),
        (
            "6 channels",
            6,
            [[0.41425, 0, 0.29287, 0, 0.29287, 0], [0, 0.41425, 0.29287, 0, 0, 0.29287]],
        ),
    ],
)
def test_weights_of_the_down_mix(layout: str, channels: int, expected: Any) -> None:
    mixed = down_mix(torch.eye(channels), layout)
    torch.testing.assert_close(mixed, torch.tensor(expected, dtype=torch.float32), atol=1e-5, rtol=0)


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(MediaError, match=r"sound in 16 channels \(hexadecagonal\); convert it"):
        down_mix(torch.zeros(16, 4), "hexadecagonal")


def test_damaged_sound_is_an_error_where_it_is_needed(sample_clips: Path, tmp_path: Path) -> None:
    clip = tmp_path / "holed.mkv"
    whole = bytearray((sample_clips / "white-disc-circle-surround.mkv").read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 60000] = bytes(60000)
    clip.write_bytes(whole)
    with pytest.raises(MediaError, match=r"s of its sound do not decode; ffmpeg says: \S"):
        sound(clip, 0.0, 1.8)
    assert sound(clip, 0.0, 0.5).shape == (2, 8000)


def test_a_damaged_end_leaves_the_sound_before_it(sample_clips: Path) -> None:
    assert onset_s(sound(sample_clips / "corrupt-tail.mp4")) < 0.01
    with pytest.raises(MediaError, match="do not decode"):
        sound(sample_clips / "corrupt-tail.mp4", 0.0, 1.9)


def test_a_file_that_lost_its_sound_is_noticed(sample_clips: Path) -> None:
    with pytest.raises(MediaError, match="no longer the file that was probed"):
        sound(sample_clips / "orange-disc-silent.mp4")
