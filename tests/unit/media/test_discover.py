"""Finding clips, and the complete plan of one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from ltxcore.config.dataset_kinds import VideoDataset
from ltxcore.media.dataset_files import Bounds
from ltxcore.media.discover import list_files, sample_id
from ltxcore.media.errors import MediaError
from ltxcore.media.frame_selection import make_sample
from ltxcore.media.probe import probe
from ltxcore.store.fingerprint import hash_file
from ltxcore.store.snapshot import Sample, SoundSelection


def dataset(**more: Any) -> VideoDataset:
    video = {"num_frames": 17, **more.pop("video", {})}
    return VideoDataset(
        id="clips", dataset_type="video", instance_data_dir="x", resolution=128, video=video, **more
    )


def plan(root: Path, name: str, chosen: VideoDataset | None = None) -> Sample:
    path = root / name
    return make_sample(chosen or dataset(), Bounds(root), path, hash_file(path), probe(path))


def test_files_are_listed_in_order_and_links_cannot_lead_astray(tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for directory in (data / "b", data / "clip.mp4", data / ".hidden", data / "workspace", elsewhere):
        directory.mkdir(parents=True)
    wanted = ["a.MP4", "b/one.mkv", "b/one.mov", "clip.mp4/inside.webm", "gone.mp4", "linked/far.avi"]
    for name in ("a.MP4", "b/one.mov", "b/one.mkv", "clip.mp4/inside.webm"):
        (data / name).touch()
    for name in ("a.txt", "cover.jpg", ".hidden/x.mp4", "._a.mp4", "workspace/render.mp4"):
        (data / name).touch()
    (elsewhere / "far.avi").touch()
    (elsewhere / "back").symlink_to(data)
    (data / "linked").symlink_to(elsewhere)
    (data / "b" / "up").symlink_to(data)
    (data / "gone.mp4").symlink_to(tmp_path / "nothing")
    os.mkfifo(data / "pipe.mp4")
    found = [
        p.relative_to(data).as_posix()
        for p in list_files(dataset(), Bounds(data, follow_links=True), (data / "workspace",))
    ]
    assert found == wanted


def test_a_root_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list_files(dataset(), Bounds(tmp_path / "none"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_directory_that_cannot_be_read_is_listed_and_rejected(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    assert list_files(dataset(), Bounds(tmp_path)) == [closed]
    with pytest.raises(MediaError, match="cannot be read: Permission denied"):
        probe(closed)


def test_an_id_is_the_path_with_its_extension(tmp_path: Path) -> None:
    assert sample_id(dataset(), tmp_path, tmp_path / "b" / "clip.mov") == "clips/b/clip.mov"
    odd = Path(os.fsdecode(bytes(tmp_path) + b"/\xff.mp4"))
    assert sample_id(dataset(), tmp_path, odd) == "clips/\\xff.mp4"


def test_a_plan_is_complete(sample_clips: Path) -> None:
    sample = plan(sample_clips, "white-disc-circle-surround.mkv", dataset(repeats=2, probability=0.5))
    assert sample.id == "clips/white-disc-circle-surround.mkv"
    assert sample.bucket == "160x96@17"
    assert len(sample.captions) == 3
    assert sample.audio == SoundSelection(start_s=0.0, duration_s=0.68, channels=6, layout="5.1", tracks=(1,))
    assert (sample.visits, sample.probability, sample.notes) == (3, 0.5, ())
    assert (sample.source_fps, sample.source_duration_s) == (25.0, 2.0)
    assert Sample.model_validate_json(sample.model_dump_json()) == sample


def test_twins_are_two_samples(sample_clips: Path) -> None:
    one, other = plan(sample_clips, "twin.mp4"), plan(sample_clips, "twin.mov")
    assert (one.id, other.id) == ("clips/twin.mp4", "clips/twin.mov")
    assert one.media_id != other.media_id


def test_a_plan_does_not_depend_on_other_files(sample_clips: Path, tmp_path: Path) -> None:
    for name in ("twin.mp4", "twin.mp4.txt"):
        shutil.copy(sample_clips / name, tmp_path / name)
    chosen = dataset(crop_style="random", resolution_type="pixel", aspect_bucket_alignment=64)
    assert plan(tmp_path, "twin.mp4", chosen) == plan(sample_clips, "twin.mp4", chosen)


def test_sound_is_planned_under_the_frames(sample_clips: Path) -> None:
    sample = plan(sample_clips, "yellow-box-down.mkv")
    assert sample.audio is not None
    assert sample.audio.start_s == sample.frames.start_s == 0.007
    silent = plan(sample_clips, "orange-disc-silent.mp4")
    assert (silent.audio, silent.notes) == (None, ("has no sound",))
    unwanted = plan(sample_clips, "twin.mp4", dataset(audio={"auto_split": False}))
    assert (unwanted.audio, unwanted.notes) == (None, ())


def test_every_bad_sample_has_its_reason(sample_clips: Path) -> None:
    reasons = {
        "too-short.mp4": "too short: it has 3 frames",
        "no-caption.mp4": "has no caption",
        "not-a-video.mp4": "seems to be text",
    }
    for name, reason in reasons.items():
        with pytest.raises(MediaError, match=reason):
            plan(sample_clips, name)
    with pytest.raises(MediaError, match=r"too short.*the file ends early"):
        plan(sample_clips, "corrupt-tail.mp4", dataset(video={"num_frames": 41}))
    assert "ends early" in plan(sample_clips, "corrupt-tail.mp4").notes[0]
