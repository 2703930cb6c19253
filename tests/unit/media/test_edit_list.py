"""MP4 and MOV with several edits: the frames, the order and the times that a player shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ltxcore.config.dataset_kinds import VideoDataset
from ltxcore.config.geometry import AUDIO_SAMPLE_RATE
from ltxcore.media.audio import decode_audio
from ltxcore.media.dataset_files import Bounds
from ltxcore.media.decode import decode_frames
from ltxcore.media.edit_list import Edit, shown_times
from ltxcore.media.errors import MediaError
from ltxcore.media.frame_selection import make_sample
from ltxcore.media.probe import probe
from tests.unit.media.clips import ffmpeg, numbers
from tests.unit.media.edit_lists import Stretch, edited
from tests.unit.media.odd_streams import write

CODECS = {
    "b-frames.mp4": ("-c:v", "libx264", "-crf", "1", "-bf", "3", "-b_strategy", "0", "-g", "12"),
    "intra.mov": ("-c:v", "mjpeg", "-q:v", "1"),
    "one-key.mp4": ("-c:v", "libx264", "-crf", "1", "-bf", "0", "-g", "250"),
}
DELAY_S = {"b-frames.mp4": 0.08}
"""The media time of the first frame: it is decoded before those that are shown before others."""
EDITS: dict[str, tuple[list[Stretch], list[int]]] = {
    "two": ([(0.8, 0.0), (0.8, 1.2)], [*range(20), *range(30, 50)]),
    "twice": ([(0.8, 0.0), (0.8, 0.0)], [*range(20), *range(20)]),
    "swapped": ([(1.0, 1.0), (1.0, 0.0)], [*range(25, 50), *range(25)]),
    "in-groups": ([(0.4, 0.2), (0.4, 1.0), (0.4, 1.6)], [*range(5, 15), *range(25, 35), *range(40, 50)]),
}


def dataset(frames: int) -> VideoDataset:
    return VideoDataset(
        id="d", dataset_type="video", instance_data_dir="x", resolution=64, caption_strategy="filename",
        video={"num_frames": frames},
    )  # fmt: skip


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifty numbered frames in each codec."""
    folder = tmp_path_factory.mktemp("recorded")
    for name, codec in CODECS.items():
        write(folder / name, 0, 50, *codec, size="64x64")
    return folder


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("kind", EDITS)
def test_the_frames_of_all_edits_are_shown_in_their_order_without_a_gap(
    name: str, kind: str, recorded: Path, tmp_path: Path
) -> None:
    stretches, frames = EDITS[kind]
    delay_s = DELAY_S.get(name, 0.0)
    later = [(length, None if begin is None else begin + delay_s) for length, begin in stretches]
    clip = edited(recorded / name, tmp_path / name, later)
    found = probe(clip)
    assert found.video.frame_count == len(frames)
    shown = [float(time * found.video.tick_s) for time in found.video.shown_from_first()]
    assert shown == pytest.approx([at / 25 for at in range(len(frames))], abs=1e-3)
    count = (len(frames) - 1) // 8 * 8 + 1
    sample = make_sample(dataset(count), Bounds(tmp_path), clip, "m", found)
    assert numbers(decode_frames(clip, sample.frames, sample.geometry)) == frames[:count]


def test_a_flash_and_its_beep_stay_together_in_the_second_edit(tmp_path: Path) -> None:
    source = tmp_path / "source.mp4"
    ffmpeg(
        "-f", "lavfi", "-i",
        "color=black:s=64x64:r=25:d=2.4,drawbox=c=white:t=fill:enable='between(n,38,39)'",
        "-f", "lavfi", "-i", "aevalsrc='0.8*sin(2000*PI*t)*between(t,1.52,1.6)':s=48000:d=2.4",
        "-c:v", "libx264", "-bf", "2", "-g", "12", "-c:a", "aac", str(source),
    )  # fmt: skip
    primed_s = 1024 / 48000
    clip = edited(source, tmp_path / "pictures.mp4", [(0.8, 0.08), (0.8, 1.28)])
    clip = edited(clip, tmp_path / "both.mp4", [(0.8, primed_s), (0.8, 1.2 + primed_s)], b"soun")
    sample = make_sample(dataset(33), Bounds(tmp_path), clip, "m", probe(clip))
    assert sample.audio is not None
    light = decode_frames(clip, sample.frames, sample.geometry).mean(axis=(1, 2, 3))
    loud = (decode_audio(clip, sample.audio).abs().amax(dim=0) > 0.2).numpy()
    assert int(np.argmax(light > 128)) == 28, "0.8 s of the first edit, and 0.32 s of the second"
    assert abs(int(np.argmax(loud)) / AUDIO_SAMPLE_RATE - 28 / 25) < 0.020


def test_an_edit_that_begins_between_two_frames_moves_those_after_it(recorded: Path, tmp_path: Path) -> None:
    clip = edited(recorded / "one-key.mp4", tmp_path / "clip.mp4", [(0.78, 0.02), (0.8, 1.22)])
    video = probe(clip).video
    shown = [float(time * video.tick_s) for time in video.shown_from_first()]
    assert video.start_s == pytest.approx(0.02)
    assert shown[18:21] == pytest.approx([0.72, 0.78, 0.82])


def test_a_gap_between_edits_is_rejected_by_name(recorded: Path, tmp_path: Path) -> None:
    clip = edited(recorded / "one-key.mp4", tmp_path / "gap.mp4", [(0.8, 0.0), (0.4, None), (0.8, 0.8)])
    with pytest.raises(MediaError, match="has an edit list with a gap"):
        probe(clip)
    late = edited(recorded / "one-key.mp4", tmp_path / "late.mp4", [(0.4, None), (0.8, 0.0), (0.8, 1.2)])
    assert probe(late).video.start_s == pytest.approx(0.4)


def test_shown_times_are_those_of_the_standard() -> None:
    edits = [Edit(10, None), Edit(30, 20), Edit(20, 0)]
    assert shown_times(edits, [0, 10, 20, 30, 40, 50, 60]) == [10, 20, 30, 40, 50]
