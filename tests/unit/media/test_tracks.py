"""The tracks that a player plays are those that are trained on."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ltxcore.config.dataset_kinds import AudioDataset, VideoDataset
from ltxcore.config.geometry import AUDIO_SAMPLE_RATE
from ltxcore.media.audio import decode_audio
from ltxcore.media.dataset_files import Bounds
from ltxcore.media.decode import decode_frames
from ltxcore.media.errors import MediaError
from ltxcore.media.frame_selection import make_sample, select_sound
from ltxcore.media.probe import MediaProbe, probe
from ltxcore.media.sound_files import probe_sound
from ltxcore.media.thumbnail import thumbnail
from ltxcore.media.wanted import wanted_of
from ltxcore.store.snapshot import Sample
from tests.unit.media.clips import ffmpeg

FILM = ("-f", "lavfi", "-i", "testsrc2=s=128x96:r=25:d=1")
X264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p")


def sine(hertz: int, volume: float = 1) -> tuple[str, ...]:
    return ("-f", "lavfi", "-i", f"aevalsrc={0.5 * volume}*sin(2*PI*{hertz}*t):s=48000:d=1:c=mono")


def plan(path: Path, **keys: Any) -> tuple[MediaProbe, Sample]:
    dataset = VideoDataset(
        id="c", dataset_type="video", instance_data_dir="x", resolution=96, resolution_type="pixel",
        caption_strategy="filename", video={"num_frames": 17, **keys.pop("video", {})}, **keys,
    )  # fmt: skip
    found = probe(path, wanted_of(dataset))
    return found, make_sample(dataset, Bounds(path.parent), path, "m", found)


def heard(path: Path, sample: Sample) -> tuple[float, float]:
    """The loudest frequency of the left and of the right side, in Hz; 0 where there is silence."""
    assert sample.audio is not None
    sound = decode_audio(path, sample.audio).numpy()
    strength = np.abs(np.fft.rfft(sound, axis=1))
    loudest = strength.argmax(1) * AUDIO_SAMPLE_RATE / sound.shape[1]
    left, right = np.where(strength.max(1) > 1, loudest, 0.0)
    return round(float(left), -1), round(float(right), -1)


def sounds(path: Path, *tracks: tuple[str, ...], options: tuple[str, ...] = ()) -> Path:
    maps = [text for number in range(len(tracks) + 1) for text in ("-map", str(number))]
    ffmpeg(*FILM, *(text for track in tracks for text in track), *maps, *X264, *options, str(path))
    return path


def test_two_tracks_of_one_channel_are_left_and_right(tmp_path: Path) -> None:
    path = sounds(tmp_path / "a_camera.mov", sine(440), sine(880), options=("-c:a", "pcm_s16le"))
    found, sample = plan(path)
    assert heard(path, sample) == (440, 880)
    assert found.notes == ("its 2 sound tracks of one channel are joined to stereo",)
    assert sample.audio is not None
    assert (sample.audio.channels, sample.audio.layout) == (2, "stereo")


def test_a_silent_side_is_no_side(tmp_path: Path) -> None:
    path = sounds(tmp_path / "one_mic.mov", sine(440, 0), sine(880), options=("-c:a", "pcm_s16le"))
    found, sample = plan(path)
    assert heard(path, sample) == (880, 880)
    assert found.notes == ("its sound track 1 is silent: track 2 is used",)


def test_two_languages_are_no_sides(tmp_path: Path) -> None:
    languages = ("-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=deu")
    path = sounds(tmp_path / "spoken.mkv", sine(440), sine(880), options=("-c:a", "flac", *languages))
    found, sample = plan(path)
    assert heard(path, sample) == (440, 440)
    assert found.notes == ("has 2 sound tracks: the first is used",)


def test_a_track_that_nobody_decodes_is_passed_over(tmp_path: Path) -> None:
    codecs = ("-c:a:0", "pcm_s16le", "-c:a:1", "aac")
    path = sounds(tmp_path / "spatial.mov", sine(440), sine(880), options=codecs)
    content = path.read_bytes()
    assert content.count(b"sowt") == 1
    path.write_bytes(content.replace(b"sowt", b"apac"))
    found, sample = plan(path)
    assert heard(path, sample) == (880, 880)
    assert found.notes == ("has 2 sound tracks: track 2 is used",)


def test_a_silent_first_track_is_passed_over_and_one_that_is_asked_for_is_not(tmp_path: Path) -> None:
    stereo = ("-filter_complex", "[1]pan=stereo|c0=c0|c1=c0[a];[2]pan=stereo|c0=c0|c1=c0[b]")
    path = tmp_path / "quiet.mkv"
    maps = ("-map", "0", "-map", "[a]", "-map", "[b]", "-c:a", "flac")
    ffmpeg(*FILM, *sine(440, 0), *sine(880), *stereo, *maps, *X264, str(path))
    found, sample = plan(path)
    assert heard(path, sample) == (880, 880)
    assert found.notes == ("its sound track 1 is silent: track 2 is used",)
    asked, sample = plan(path, audio={"track": 1})
    assert heard(path, sample) == (0, 0)
    assert asked.loudness_lufs is None
    with pytest.raises(MediaError, match=r"has no audio track 3: it has 2 tracks, and audio\.track is 3"):
        plan(path, audio={"track": 3})


def test_the_default_comes_first_and_then_the_most_channels(tmp_path: Path) -> None:
    wide = ("-filter_complex", "[1]pan=mono|c0=c0[a];[2]pan=5.1|c2=c0[b]", "-map", "0", "-map", "[a]")
    for default, number in (("0", 2), ("default", 1)):
        path = tmp_path / f"default-{default}.mkv"
        flags = ("-disposition:a:0", default, "-disposition:a:1", "0")
        ffmpeg(*FILM, *sine(440), *sine(880), *wide, "-map", "[b]", "-c:a", "flac", *flags, *X264, str(path))
        found, sample = plan(path)
        assert heard(path, sample)[0] == 440 * number
        assert found.audio is not None
        assert found.audio.index == number


def test_a_still_beside_a_film_is_its_thumbnail(tmp_path: Path) -> None:
    path = tmp_path / "thumbnail_first.mp4"
    still = ("-f", "lavfi", "-i", "color=magenta:s=64x64:r=1:d=1")
    codecs = ("-c:v:0", "mjpeg", "-c:v:1", "libx264", "-pix_fmt:v:0", "yuvj420p")
    ffmpeg(*still, *FILM, "-map", "0", "-map", "1", *codecs, "-pix_fmt:v:1", "yuv420p", str(path))
    found, sample = plan(path)
    assert (found.video.width, found.video.height) == (128, 96)
    assert "has 2 video tracks: track 2 is used" in found.notes
    frames = decode_frames(path, sample.frames, sample.geometry)
    assert len({frame.tobytes() for frame in frames}) == 17
    with (
        Image.open(io.BytesIO(thumbnail(path, 0.3))) as film,
        Image.open(io.BytesIO(thumbnail(path, track=0))) as alone,
    ):
        assert film.size == (112, 84)
        assert alone.size == (112, 112), "the track that was chosen"


def test_a_dataset_chooses_its_tracks(tmp_path: Path) -> None:
    path = tmp_path / "angles.mkv"
    other = ("-f", "lavfi", "-i", "color=blue:s=96x64:r=25:d=1")
    pan = ("-filter_complex", "[2]pan=stereo|c0=c0|c1=c0[a];[3]pan=stereo|c0=c0|c1=c0[b]")
    maps = ("-map", "0", "-map", "1", "-map", "[a]", "-map", "[b]", "-c:a", "flac")
    ffmpeg(*FILM, *other, *sine(440), *sine(880), *pan, *maps, *X264, str(path))
    for track, size in ((1, (128, 96)), (2, (96, 64))):
        found, sample = plan(path, video={"track": track}, audio={"track": track})
        assert (found.video.width, found.video.height) == size
        assert heard(path, sample) == (440 * track, 440 * track)
        frames = decode_frames(path, sample.frames, sample.geometry)
        assert bool((frames[..., 0] < 10).all()) is (track == 2)
        sound = AudioDataset(
            id="s",
            dataset_type="audio",
            instance_data_dir="x",
            audio={"track": track},
            caption_strategy="filename",
        )
        alone = select_sound(
            sound, sound.audio, Bounds(tmp_path), path, "m", probe_sound(path, wanted_of(sound))
        )
        assert heard(path, alone) == (440 * track, 440 * track)
    with pytest.raises(MediaError, match=r"has no video track 3: it has 2 tracks, and video\.track is 3"):
        plan(path, video={"track": 3})
