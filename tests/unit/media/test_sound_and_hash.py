"""Sound and pictures measured by one ffmpeg: equal to each alone, and a fault in one costs not the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ltxcore.config.dataset_kinds import VideoDataset
from ltxcore.media import sound_and_hash
from ltxcore.media.dataset_files import Bounds
from ltxcore.media.errors import MediaError
from ltxcore.media.ffmpeg_process import run_tool
from ltxcore.media.frame_selection import make_sample
from ltxcore.media.loudness import measure_loudness
from ltxcore.media.perceptual_hash import Pictures, hash_of_clip
from ltxcore.media.probe import probe, read_streams
from ltxcore.media.sound_and_hash import measure
from ltxcore.media.sound_files import probe_sound
from tests.unit.media.clips import ffmpeg


def dataset(**more: Any) -> VideoDataset:
    return VideoDataset.model_validate(
        {
            "id": "d", "dataset_type": "video", "instance_data_dir": "x", "caption_strategy": "filename",
            "resolution": 64, "video": {"num_frames": 9}, **more,
        }
    )  # fmt: skip


@pytest.mark.parametrize("name", ["red-disc-right.mp4", "twin.mov", "white-disc-circle-surround.mkv"])
def test_both_together_are_equal_to_each_alone_and_take_one_process(
    name: str, sample_clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = sample_clips / name
    found = read_streams(clip)
    assert found.audio is not None
    started = []

    def counted(arguments: list[str], timeout_s: float) -> object:
        started.append(arguments[0])
        return run_tool(arguments, timeout_s)

    monkeypatch.setattr(sound_and_hash, "run_tool", counted)
    look, loudness = measure(clip, Pictures(found.video.index, found.video.duration_s), found.audio)
    assert started == ["ffmpeg"]
    assert look == hash_of_clip(clip, Pictures(found.video.index, found.video.duration_s))
    assert loudness == measure_loudness(clip, found.audio)


def test_pictures_that_do_not_decode_are_refused_and_leave_the_sound(tmp_path: Path) -> None:
    clip = tmp_path / "broken.mkv"
    ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=s=64x64:r=25:d=1", "-f", "lavfi", "-i", "sine=f=500:d=1:r=16000",
        "-c:v", "mjpeg", "-c:a", "flac", "-bsf:v", "noise=amount=1", str(clip),
    )  # fmt: skip
    with pytest.raises(MediaError, match=r"none of its 25 frames can be decoded whole; ffmpeg says: \S"):
        probe(clip)
    assert probe_sound(clip).loudness_lufs is not None


def test_sound_that_does_not_decode_is_the_reason_where_it_is_wanted(tmp_path: Path) -> None:
    clip = tmp_path / "broken.mkv"
    ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=s=64x64:r=25:d=1", "-f", "lavfi", "-i", "sine=f=500:d=1:r=16000",
        "-c:v", "ffv1", "-c:a", "flac", "-bsf:a", "noise=amount=1", str(clip),
    )  # fmt: skip
    assert hash_of_clip(clip, Pictures(0, 1.0)) is not None
    found = probe(clip)
    assert found.look is not None
    with pytest.raises(MediaError, match="its sound cannot be decoded; ffmpeg says: "):
        make_sample(dataset(), Bounds(tmp_path), clip, "m", found)
    silent = make_sample(dataset(audio={"auto_split": False}), tmp_path, clip, "m", found)
    assert silent.audio is None


def test_sound_of_speakers_that_nobody_knows_is_a_reason_for_people(tmp_path: Path) -> None:
    clip = tmp_path / "ten.mov"
    ten = "|".join(["0.1"] * 10)
    ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=s=64x64:r=25:d=1", "-f", "lavfi", "-i", f"aevalsrc='{ten}':d=1",
        "-c:v", "mjpeg", "-c:a", "pcm_s16le", str(clip),
    )  # fmt: skip
    with pytest.raises(MediaError, match=r"has sound in 10 channels .*; convert it to mono, stereo, 5.1"):
        make_sample(dataset(), Bounds(tmp_path), clip, "m", probe(clip))


def test_sound_of_an_unknown_codec_is_a_reason_for_people(tmp_path: Path) -> None:
    clip = tmp_path / "odd.mov"
    ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=s=64x64:r=25:d=1", "-f", "lavfi", "-i", "sine=d=1", "-c:v", "png",
        "-pix_fmt", "rgba", "-c:a", "pcm_s16le", str(clip),
    )  # fmt: skip
    assert not any("transparent" in note for note in probe(clip).notes), "all of it is opaque"
    clip.write_bytes(clip.read_bytes().replace(b"sowt", b"zzzz"))
    assert probe(clip).sound_fault == (
        "its sound is in a codec that nobody here knows; convert it, e.g. to AAC"
    )


def test_tracks_that_are_not_used_are_reported(tmp_path: Path) -> None:
    clip = tmp_path / "two.mkv"
    tones = [a for hz in (300, 600) for a in ("-f", "lavfi", "-i", f"sine=f={hz}:d=1")]
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x64:r=25:d=1", *tones, "-map", "0", "-map", "1", "-map", "2",
           "-metadata:s:a:1", "language=deu", "-c:v", "ffv1", "-c:a", "flac", str(clip))  # fmt: skip
    assert probe(clip).notes == ("has 2 sound tracks: the first is used",)
    programme = tmp_path / "one.ts"
    ffmpeg("-i", str(clip), "-map", "0:0", "-map", "0:1", "-c:v", "mpeg2video", "-c:a", "mp2", str(programme))
    assert not [note for note in probe(programme).notes if "tracks" in note], "ffprobe lists them twice"


def test_tags_of_a_file_are_no_fields_of_its_streams(tmp_path: Path) -> None:
    clip = tmp_path / "tags.mkv"
    ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=s=96x64:r=25:d=0.4", "-c:v", "ffv1", "-metadata:s:v",
        "rotate=90|width=7|index=9", str(clip),
    )  # fmt: skip
    video = probe(clip).video
    assert (video.width, video.height, video.index, video.rotation) == (96, 64, 0, 0)
