"""One clock: a flash and its beep stay together in every container, whichever track begins first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ltxcore.config.dataset_kinds import VideoDataset
from ltxcore.config.geometry import AUDIO_SAMPLE_RATE
from ltxcore.media.audio import decode_audio
from ltxcore.media.dataset_files import Bounds
from ltxcore.media.decode import decode_frames
from ltxcore.media.frame_selection import make_sample
from ltxcore.media.probe import probe
from tests.unit.media.clips import ffmpeg

FLASH_S = 0.56
AT_MOST_S = 0.020
DATASET = VideoDataset(
    id="d", dataset_type="video", instance_data_dir="x", resolution=64, caption_strategy="filename",
    video={"num_frames": 17},
)  # fmt: skip
H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-bf", "0", "-pix_fmt", "yuv420p")
FROM_ZERO = ("-muxdelay", "0", "-muxpreload", "0")
CONTAINERS: dict[str, tuple[str, ...]] = {
    "b-frames.mp4": ("-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-c:a", "aac"),
    "clip.mov": (*H264, "-c:a", "pcm_s16le"),
    "clip.mkv": (*H264, "-c:a", "flac"),
    "clip.webm": ("-c:v", "libvpx", "-deadline", "realtime", "-b:v", "200k", "-c:a", "libopus"),
    "clip.ts": (*H264, "-c:a", "aac"),
    "zero.ts": (*H264, "-c:a", "mp2", *FROM_ZERO),
    "zero-aac.ts": (*H264, "-c:a", "aac", *FROM_ZERO),
    "clip.mpg": ("-c:v", "mpeg2video", "-q:v", "3", "-c:a", "mp2"),
    "zero.mpg": ("-c:v", "mpeg2video", "-q:v", "3", "-c:a", "mp2", *FROM_ZERO),
    "clip.flv": (*H264, "-c:a", "aac"),
    "clip.ogv": ("-c:v", "libtheora", "-q:v", "7", "-c:a", "libvorbis"),
    "clip.asf": ("-c:v", "msmpeg4", "-q:v", "3", "-c:a", "wmav2"),
}  # fmt: skip
TOGETHER = {
    "clip.avi": ("-c:v", "mpeg4", "-q:v", "3", "-c:a", "mp3"),
    "b-frames.avi": ("-c:v", "libx264", "-preset", "fast", "-bf", "3", "-c:a", "pcm_s16le"),
    "h264.avi": (*H264, "-c:a", "pcm_s16le"),
    "clip.mxf": ("-c:v", "mpeg2video", "-q:v", "3", "-c:a", "pcm_s16le"),
}
"""Containers that cannot say that a track begins later."""
LATE = {"together": (0.0, 0.0), "sound-first": (0.4, 0.0), "pictures-first": (0.0, 0.4)}


def flash_and_beep(clip: Path, late: tuple[float, float], codecs: tuple[str, ...]) -> Path:
    """A white frame and a tone at `FLASH_S`, in tracks that begin so many seconds late."""
    pictures_s, sound_s = late
    frame, beep_s = round((FLASH_S - pictures_s) * 25), FLASH_S - sound_s
    ffmpeg(
        "-itsoffset", str(pictures_s), "-f", "lavfi", "-i",
        f"color=black:s=96x64:r=25:d=1.2,drawbox=c=white:t=fill:enable='between(n,{frame},{frame + 1})'",
        "-itsoffset", str(sound_s), "-f", "lavfi", "-i",
        f"aevalsrc='0.8*sin(2000*PI*t)*between(t,{beep_s},{beep_s + 0.1})':s=48000:d=1.2",
        *codecs, f"file:{clip}",
    )  # fmt: skip
    return clip


def apart_s(clip: Path) -> float:
    """How much later than the flash the beep is heard, as training gets them."""
    sample = make_sample(DATASET, Bounds(clip.parent), clip, "m", probe(clip))
    assert sample.audio is not None
    light = decode_frames(clip, sample.frames, sample.geometry).mean(axis=(1, 2, 3))
    loud = decode_audio(clip, sample.audio).abs().amax(dim=0) > 0.2
    assert isinstance(loud, torch.Tensor)
    return int(loud.nonzero()[0]) / AUDIO_SAMPLE_RATE - int(np.argmax(light > 128)) / 25


@pytest.mark.parametrize("order", LATE)
@pytest.mark.parametrize("name", CONTAINERS)
def test_a_flash_and_its_beep_stay_together(name: str, order: str, tmp_path: Path) -> None:
    clip = flash_and_beep(tmp_path / name, LATE[order], CONTAINERS[name])
    assert abs(apart_s(clip)) < AT_MOST_S


@pytest.mark.parametrize("name", TOGETHER)
def test_a_flash_and_its_beep_stay_together_where_tracks_begin_together(name: str, tmp_path: Path) -> None:
    assert abs(apart_s(flash_and_beep(tmp_path / name, (0.0, 0.0), TOGETHER[name]))) < AT_MOST_S
