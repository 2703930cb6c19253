"""Decoding: the frames of the plan and no others, upright, in the right place, or a reason."""

from __future__ import annotations

import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ltxcore.config.dataset_blocks import VideoSettings
from ltxcore.config.dataset_kinds import VideoDataset
from ltxcore.media import decode
from ltxcore.media.buckets import geometry
from ltxcore.media.decode import decode_frames
from ltxcore.media.errors import MediaError
from ltxcore.media.frames import select_frames
from ltxcore.media.probe import read_streams
from ltxcore.store.snapshot import FrameSelection, Geometry
from tests.unit.media.clips import ffmpeg, numbered_clip, numbers

IRREGULAR = "round(1000*(N/30+0.011*sin(1.7*N)))"
SOURCES: dict[str, dict[str, Any]] = {
    "b-frames.mp4": {},
    "b-frames.mkv": {"rate": "24000/1001"},
    "open-gop.mov": {
        "codec": ("-c:v", "libx264", "-bf", "3", "-crf", "1", "-x264-params", "open-gop=1:keyint=10")
    },
    "fifty.mp4": {"rate": "50"},
    "irregular.mp4": {"setpts": IRREGULAR},
    "irregular.mkv": {"setpts": IRREGULAR},
    "hidden-frames.webm": {
        "codec": ("-c:v", "libvpx", "-auto-alt-ref", "1", "-lag-in-frames", "16", "-b:v", "2M")
    },
    "no-pts.avi": {"codec": ("-c:v", "mpeg4", "-bf", "2", "-q:v", "1")},
    "few-pts.mpg": {"codec": ("-c:v", "mpeg2video", "-bf", "2", "-q:v", "1")},
}


def dataset(**more: Any) -> VideoDataset:
    return VideoDataset(id="d", dataset_type="video", instance_data_dir="x", **more)


def plain(width: int, height: int) -> Geometry:
    return Geometry(source=(width, height), resize=(width, height), crop_xy=(0, 0), target=(width, height))


def frames_of(indices: tuple[int, ...]) -> FrameSelection:
    return FrameSelection(indices=indices, fps=25, start_s=0)


@pytest.mark.parametrize("name", SOURCES)
def test_every_frame_carries_the_number_that_the_plan_names(name: str, tmp_path: Path) -> None:
    clip = numbered_clip(tmp_path / name, 50, **SOURCES[name])
    found = read_streams(clip)
    assert found.video.frame_count == 50
    planned = select_frames(found, VideoSettings(num_frames=17))
    indices = (*planned.indices, 49, 3, 3, 11, *range(50))
    assert numbers(decode_frames(clip, frames_of(indices), plain(64, 64))) == list(indices)


@pytest.mark.parametrize("setpts", ["", "round(1000*(N/25+0.011*sin(1.7*N)))"], ids=["constant", "irregular"])
def test_a_clip_of_several_hundred_frames_decodes(setpts: str, tmp_path: Path) -> None:
    clip = tmp_path / "long.mp4"
    timing = f",settb=1/1000,setpts={setpts}" if setpts else ""
    grey = (
        f"color=c=black:s=64x64:r=25:d=60,trim=end_frame=400,geq=lum='16+4*mod(N,54)':cb=128:cr=128{timing}"
    )
    ffmpeg(
        "-f", "lavfi", "-i", f"{grey},format=yuv420p", "-fps_mode", "passthrough", "-enc_time_base",
        "1:1000" if setpts else "0", "-c:v", "libx264", "-preset", "ultrafast", "-crf", "1", f"file:{clip}",
    )  # fmt: skip
    for indices in (tuple(range(400)), tuple(range(3, 400, 2)), tuple(range(0, 400, 7))):
        found = decode_frames(clip, frames_of(indices), plain(64, 64))
        assert numbers(found) == [index % 54 for index in indices]


def test_pixels_are_resampled_and_cut_where_the_geometry_says(sample_clips: Path) -> None:
    clip = sample_clips / "red-disc-right.mp4"
    cut = geometry(dataset(resolution=128), 256, 160, "m")
    first, last = decode_frames(clip, frames_of((0, 49)), cut)
    assert first.shape == (96, 160, 3)
    assert first.dtype == np.uint8
    red_at = [np.argwhere((f[..., 0] > 200) & (f[..., 1] < 60)).mean(axis=0) for f in (first, last)]
    assert red_at[0] == pytest.approx([48, 15], abs=3)
    assert red_at[1] == pytest.approx([48, 143], abs=4)
    right = Geometry(source=(256, 160), resize=(160, 100), crop_xy=(97, 3), target=(63, 97))
    whole = decode_frames(clip, frames_of((49,)), plain(160, 100).model_copy(update={"source": (256, 160)}))
    assert (decode_frames(clip, frames_of((49,)), right) == whole[:, 3:, 97:]).all()


def test_a_turned_clip_stands_upright(sample_clips: Path) -> None:
    first, last = decode_frames(sample_clips / "cyan-disc-telephone.mp4", frames_of((0, 59)), plain(192, 320))
    heights = [np.argwhere((f[..., 0] < 60) & (f[..., 2] > 200)).mean(axis=0)[0] for f in (first, last)]
    assert heights[0] > 280
    assert heights[1] < 40


def test_colours_are_those_of_the_source(sample_clips: Path) -> None:
    clip = sample_clips / "twin.mov"
    frame = decode_frames(clip, frames_of((0,)), plain(192, 192))[0]
    assert frame[165, 96].tolist() == pytest.approx([0, 0, 255], abs=6)
    assert frame[2, 2].tolist() == pytest.approx([0x30, 0x20, 0x10], abs=6)


def test_all_readable_frames_of_a_damaged_clip_decode(sample_clips: Path) -> None:
    clip = sample_clips / "corrupt-tail.mp4"
    count = read_streams(clip).video.frame_count
    assert len(decode_frames(clip, frames_of(tuple(range(count))), plain(256, 160))) == count


def test_damage_in_the_middle_is_an_error_that_counts_what_was_readable(
    sample_clips: Path, tmp_path: Path
) -> None:
    clip = tmp_path / "holed.mp4"
    whole = bytearray((sample_clips / "twin.mp4").read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 4000] = bytes(4000)
    clip.write_bytes(whole)
    times = tuple(read_streams(sample_clips / "twin.mp4").video.timestamps())
    planned = frames_of(tuple(range(45))).model_copy(update={"times": times})
    with pytest.raises(
        MediaError, match=r"does not decode: \d+ of the 45 frames needed are readable; ffmpeg says: \S"
    ):
        decode_frames(clip, planned, plain(192, 192))
    before = decode_frames(clip, planned.only(range(15)), plain(192, 192))
    whole_clip = decode_frames(sample_clips / "twin.mp4", planned.only(range(15)), plain(192, 192))
    assert (before == whole_clip).all()


def test_a_file_that_was_replaced_is_noticed(sample_clips: Path) -> None:
    with pytest.raises(MediaError, match="no longer the file that was probed: 45 frames of 192x192"):
        decode_frames(sample_clips / "twin.mp4", frames_of((60,)), plain(192, 192))
    with pytest.raises(MediaError, match="no longer the file"):
        decode_frames(sample_clips / "twin.mp4", frames_of((0,)), plain(256, 160))


@pytest.mark.parametrize("name", ["-i.mp4", 'a\'b "c".mp4', "two\nlines.mp4", "🦊.mp4"])
def test_any_file_name_is_safe(
    name: str, sample_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(sample_clips / "twin.mp4", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert decode_frames(Path(name), frames_of((0, 1)), plain(192, 192)).shape == (2, 192, 192, 3)


def test_decoding_that_takes_too_long_is_stopped(sample_clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "DECODE_TIMEOUT_S", 0.001)
    with pytest.raises(MediaError, match=r"did not finish within 0\.001 s"):
        decode_frames(sample_clips / "twin.mp4", frames_of(tuple(range(45))), plain(192, 192))


def test_nothing_is_left_running_after_an_error(sample_clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Recorded(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self)

    def interrupted(*_: Any) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    monkeypatch.setattr(decode, "_fill", interrupted)
    with pytest.raises(KeyboardInterrupt):
        decode_frames(sample_clips / "twin.mp4", frames_of(tuple(range(45))), plain(192, 192))
    assert started[-1].args[0] == "ffmpeg"  # type: ignore[index]
    assert all(process.poll() is not None for process in started)
    assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
