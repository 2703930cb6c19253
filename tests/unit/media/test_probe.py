"""Probing: exact frame times, displayed sizes, and reasons that a person understands."""

from __future__ import annotations

import math
import os
import shutil
from fractions import Fraction
from pathlib import Path

import pytest

from ltxcore.media import ffmpeg_process
from ltxcore.media.errors import MediaError
from ltxcore.media.loudness import measure_loudness
from ltxcore.media.probe import MediaProbe, probe, read_streams
from tests.unit.media.clips import ffmpeg


def test_frame_times_are_exact_and_survive_json(sample_clips: Path) -> None:
    found = probe(sample_clips / "green-disc-left.mov")
    video = found.video
    assert [t * video.tick_s for t in video.timestamps()] == [Fraction(1001 * n, 30000) for n in range(54)]
    assert video.steps == ((1001, 53),)
    assert video.fps == pytest.approx(30000 / 1001)
    assert video.duration_s == pytest.approx(1.8018)
    assert MediaProbe.model_validate_json(found.model_dump_json()) == found


def test_an_irregular_clip_keeps_each_of_its_times(sample_clips: Path) -> None:
    video = probe(sample_clips / "purple-box-irregular.mp4").video
    expected = [round(1000 * (n / 30 + 0.011 * math.sin(1.7 * n))) for n in range(54)]
    assert [t * video.tick_s * 1000 for t in video.timestamps()] == expected


def test_the_rate_of_a_file_is_that_of_most_of_its_frames(tmp_path: Path) -> None:
    for name, rate in (("gap.mkv", "25"), ("film.mkv", "24"), ("slow.mkv", "24000/1001")):
        source = f"color=red:s=64x64:r={rate}:d=2"
        dropped = (
            ("-vf", "select='not(between(n,20,24))'", "-fps_mode", "passthrough") if name == "gap.mkv" else ()
        )
        ffmpeg("-f", "lavfi", "-i", source, *dropped, "-c:v", "mpeg4", str(tmp_path / name))
    gap = probe(tmp_path / "gap.mkv").video
    assert gap.fps < 23, "over its length it has fewer"
    assert gap.usual_fps == pytest.approx(25)
    # Matroska's milliseconds: 41 and 42.
    assert probe(tmp_path / "film.mkv").video.usual_fps == pytest.approx(24, abs=0.02)
    assert probe(tmp_path / "slow.mkv").video.usual_fps == pytest.approx(23.976, abs=0.02)
    uneven = gap.model_copy(update={"steps": ((20, 10), (90, 10), (300, 10))})
    assert uneven.usual_fps == uneven.fps, "frames without a usual distance have a mean alone"


def test_a_turned_clip_has_its_displayed_size(sample_clips: Path) -> None:
    video = probe(sample_clips / "cyan-disc-telephone.mp4").video
    assert (video.width, video.height, video.stored, video.rotation) == (192, 320, (320, 192), 90)


def test_pixels_that_are_not_square_widen_the_displayed_size(tmp_path: Path) -> None:
    clip = tmp_path / "dv.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=64x64:d=0.2,setsar=4/3", str(clip))
    video = probe(clip).video
    assert (video.width, video.height, video.sample_aspect_ratio) == (85, 64, "4:3")


def test_loudness_is_that_of_ebu_r128(tmp_path: Path) -> None:
    # EBU Tech 3341, case 1: a stereo sine of 1 kHz at -23 dBFS has -23 LUFS.
    level = 10 ** (-23 / 20)
    for name, volume in (("tone.mkv", level), ("silent.mkv", 0.0)):
        tones = f"aevalsrc='{volume}*sin(2000*PI*t)|{volume}*sin(2000*PI*t)':d=3:s=48000"
        picture = "color=s=32x32:r=5:d=3"
        ffmpeg("-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", tones, "-c:a", "flac", str(tmp_path / name))
    stream = read_streams(tmp_path / "tone.mkv").audio
    assert stream is not None
    tone = measure_loudness(tmp_path / "tone.mkv", stream)
    assert tone.lufs == pytest.approx(-23, abs=0.1)
    assert (tone.silence_share, tone.duration_s) == (0.0, 3.0)
    silent = probe(tmp_path / "silent.mkv")
    assert (silent.loudness_lufs, silent.silence_share) == (None, 1.0)
    assert silent.notes == ("100 % of its sound is silence",)


def test_a_cover_is_not_a_video(sample_clips: Path, tmp_path: Path) -> None:
    cover, song = tmp_path / "cover.png", tmp_path / "song.m4v"
    ffmpeg("-f", "lavfi", "-i", "color=red:s=64x64:d=1", "-frames:v", "1", str(cover))
    ffmpeg(
        "-f", "lavfi", "-i", "sine=d=1", "-i", str(cover), "-map", "0", "-map", "1", "-c:v", "copy",
        "-disposition:v:0", "attached_pic", "-f", "mp4", str(song),
    )  # fmt: skip
    with pytest.raises(MediaError, match=r"sound but no video stream \(its only picture is a cover\)"):
        probe(song)


def test_notes_name_deep_colour_odd_pixels_a_late_sound_and_silence(tmp_path: Path) -> None:
    clip = tmp_path / "odd.mkv"
    ffmpeg(
        "-f", "lavfi", "-i", "testsrc=s=64x64:d=1,setsar=4/3,format=yuv420p10le", "-itsoffset", "0.5", "-f",
        "lavfi", "-i", "aevalsrc=0:d=0.5:s=16000", "-c:v", "libx264", "-c:a", "flac", str(clip),
    )  # fmt: skip
    found = probe(clip)
    assert found.notes == (
        "has 10 bits a colour: it is read with 8",
        "its pixels are not square (4:3): shown 85x64",
        "its sound begins 0.50 s after its first frame",
        "100 % of its sound is silence",
    )
    assert found.audio_offset_s == pytest.approx(0.5)
    assert found.look is not None


def test_an_early_end_is_noted_with_the_frames_that_are_left(sample_clips: Path) -> None:
    found = probe(sample_clips / "corrupt-tail.mp4")
    assert found.notes == (f"the file ends early: {found.video.frame_count} of 50 frames are readable",)
    assert 20 < found.video.frame_count < 45
    assert found.video.steps == ((512, found.video.frame_count - 1),)


def test_an_early_end_of_a_matroska_file_is_noted(sample_clips: Path, tmp_path: Path) -> None:
    clip = tmp_path / "cut.mkv"
    whole = (sample_clips / "yellow-box-down.mkv").read_bytes()
    clip.write_bytes(whole[: len(whole) * 6 // 10])
    assert "ends early" in probe(clip).notes[0]


REASONS = {
    "empty": (b"", r"is empty \(zero bytes\)"),
    "text": (b"hello\n" * 50, "is not a video that can be read: it seems to be text"),
    "zip": (b"PK\x03\x04" + bytes(200), "a ZIP archive"),
    "zeros": (bytes(5000), "nothing but zeros"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "playlist": (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n", "an HLS playlist"),
    "concat": (b"ffconcat version 1.0\nfile /etc/hostname\n", "a concat script"),
    "noise": (bytes(range(256)) * 20, "is not a video that can be read"),
}


@pytest.mark.parametrize("name", REASONS)
def test_what_is_not_a_video_is_called_by_its_name(name: str, tmp_path: Path) -> None:
    content, reason = REASONS[name]
    clip = tmp_path / f"{name}.mp4"
    clip.write_bytes(content)
    with pytest.raises(MediaError, match=reason):
        probe(clip)


def test_a_recording_without_its_index_says_so(sample_clips: Path, tmp_path: Path) -> None:
    clip = tmp_path / "no-moov.mp4"
    ffmpeg("-i", str(sample_clips / "twin.mp4"), "-c", "copy", str(clip))
    clip.write_bytes(clip.read_bytes()[:20000])
    with pytest.raises(MediaError, match=r"an MP4 without its index \(moov\).* cut short"):
        probe(clip)


def test_a_header_without_frames_says_so(sample_clips: Path, tmp_path: Path) -> None:
    clip = tmp_path / "header.mp4"
    whole = (sample_clips / "twin.mp4").read_bytes()
    clip.write_bytes(whole[: whole.index(b"mdat") + 4])
    with pytest.raises(MediaError, match="a header but no frame that can be read"):
        probe(clip)


def test_a_picture_of_one_pixel_is_refused(tmp_path: Path) -> None:
    clip = tmp_path / "dot.mkv"
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "color=s=16x16:d=0.2,format=yuv444p,crop=1:1",
        "-c:v",
        "ffv1",
        "-pix_fmt",
        "yuv444p",
        str(clip),
    )
    with pytest.raises(MediaError, match="a picture of 1x1 pixels"):
        probe(clip)


def test_directories_and_broken_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").mkdir()
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe.mp4")
    for name, reason in {
        "clip.mp4": "is a directory",
        "gone.mp4": "a link to a file that is not there",
        "pipe.mp4": "not a regular file",
        "none.mp4": "is not there",
    }.items():
        with pytest.raises(MediaError, match=reason):
            probe(tmp_path / name)


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="not UTF-8; rename it"):
        probe(Path(os.fsdecode(bytes(tmp_path) + b"/\xff.mp4")))


NAMES = [
    "with space.mp4",
    'it\'s "quoted".mp4',
    "two\nlines.mp4",
    "🦊.mp4",
    "-y.mp4",
    "100%d.mp4",
    "a:b;c$(id).mp4",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_file_name_is_safe(
    name: str, sample_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(sample_clips / "twin.mp4", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert probe(Path(name)).video.frame_count == 45


def test_a_probe_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = tmp_path / "long.mkv"
    ffmpeg("-f", "lavfi", "-i", "color=s=64x64:r=60:d=2", "-c:v", "mpeg4", str(clip))
    monkeypatch.setattr(ffmpeg_process, "PROBE_TIMEOUT_S", 0.001)
    with pytest.raises(MediaError, match="did not finish within"):
        probe(clip)
