"""Pictures, sound files, tables of captions, likeness: what is read, and what is said of what cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from ltxcore.config.caption_filters import filter_caption
from ltxcore.config.dataset_blocks import ParquetSettings
from ltxcore.config.dataset_kinds import ImageDataset, VideoDataset
from ltxcore.config.geometry import AUDIO_SAMPLE_RATE
from ltxcore.media.audio import decode_audio
from ltxcore.media.buckets import geometry
from ltxcore.media.caption_table import from_table
from ltxcore.media.captions import read_captions
from ltxcore.media.dataset_files import Bounds
from ltxcore.media.discover import captions_without_a_file
from ltxcore.media.errors import MediaError
from ltxcore.media.frame_selection import sound_length_s
from ltxcore.media.perceptual_hash import ALIKE_BITS, BITS, Pictures, alike, hash_of_clip
from ltxcore.media.pictures import decode_picture, probe_picture
from ltxcore.media.sound_files import probe_sound
from ltxcore.store.snapshot import Geometry, SoundSelection
from tests.unit.media.clips import ffmpeg
from tests.unit.media.files import picture, tone

STILLS = ImageDataset(
    id="s", dataset_type="image", instance_data_dir="x", resolution=64, resolution_type="pixel"
)


def whole(width: int, height: int) -> Geometry:
    return Geometry(source=(width, height), resize=(width, height), crop_xy=(0, 0), target=(width, height))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.tiff"])
def test_a_picture_is_one_frame(name: str, tmp_path: Path) -> None:
    path = picture(tmp_path / name)
    found = probe_picture(path)
    assert (found.width, found.height, found.notes) == (96, 64, ())
    frames = decode_picture(path, geometry(STILLS, 96, 64, "m"))
    assert (frames.shape, frames.dtype) == ((1, 64, 96, 3), np.uint8)
    assert frames[0, :, 8, 0].mean() > 200
    assert frames[0, :, 88, 0].mean() < 90


def test_a_picture_is_turned_after_its_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = picture(tmp_path / "a.jpg", exif=exif)
    found = probe_picture(path)
    assert (found.width, found.height) == (64, 96)
    assert "EXIF orientation" in found.notes[0]
    frame = decode_picture(path, whole(64, 96))[0]
    assert frame[8, :, 0].mean() > 200, "the left side is at the top now"
    with pytest.raises(MediaError, match="no longer the file that was probed: 64x96, not 96x64"):
        decode_picture(path, whole(96, 64))


def test_transparent_and_deep_pictures_become_plain_ones(tmp_path: Path) -> None:
    Image.new("RGBA", (32, 32), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert decode_picture(tmp_path / "clear.png", whole(32, 32)).min() == 255
    Image.fromarray(np.full((32, 32), 32896, np.uint16)).save(tmp_path / "deep.png")
    assert decode_picture(tmp_path / "deep.png", whole(32, 32))[0, 0, 0].tolist() == [128] * 3
    assert "16 bits" in probe_picture(tmp_path / "deep.png").notes[0]
    assert probe_picture(tmp_path / "clear.png").notes == ("has transparent parts: they are shown on white",)
    Image.new("RGBA", (32, 32), (255, 0, 0, 255)).save(tmp_path / "opaque.png")
    assert probe_picture(tmp_path / "opaque.png").notes == ()
    Image.fromarray(np.full((32, 32), 0.5, np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(MediaError, match="floating-point numbers"):
        probe_picture(tmp_path / "float.tif")
    Image.new("P", (32, 32), 0).save(tmp_path / "few.png")
    assert decode_picture(tmp_path / "few.png", whole(32, 32)).shape == (1, 32, 32, 3)


def test_what_is_no_picture_says_so(tmp_path: Path) -> None:
    half = picture(tmp_path / "half.png", (300, 300)).read_bytes()
    contents = {
        "text.png": (b"hello\n" * 40, "is not a picture that can be read: it seems to be text"),
        "empty.jpg": (b"", "is empty"),
        "half.png": (half[: len(half) // 2], "is not a picture that can be read"),
        "zip.webp": (b"PK\x03\x04" + bytes(99), "a ZIP archive"),
    }
    for name, (content, reason) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MediaError, match=reason):
            probe_picture(tmp_path / name)
    picture(tmp_path / "dot.png", (1, 1))
    with pytest.raises(MediaError, match="a picture of 1x1 pixels"):
        probe_picture(tmp_path / "dot.png")


def test_a_picture_that_claims_to_be_huge_is_refused_unread(tmp_path: Path) -> None:
    path = picture(tmp_path / "bomb.bmp", (32, 32))
    content = bytearray(path.read_bytes())
    content[18:22] = content[22:26] = (60000).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"(too large a )?picture.*60000|too large a picture"):
        probe_picture(path)


@pytest.mark.parametrize(
    "name",
    ["a.wav", "a.flac", "a.mp3", "a.ogg", "a.opus", "a.m4a", "a.mp4", "a.mpeg", "a.mkv", "a.webm", "a.mov"],
)
def test_sound_is_read_from_every_format(name: str, tmp_path: Path) -> None:
    found = probe_sound(tone(tmp_path / name, 1.2, rate=48000, channels=2))
    assert found.duration_s == pytest.approx(1.2, abs=0.08)
    assert found.silence_share < 0.05
    plan = SoundSelection(start_s=found.audio.start_s, duration_s=1.0, channels=2, layout="stereo")
    heard = decode_audio(tmp_path / name, plan)
    assert heard.shape == (2, AUDIO_SAMPLE_RATE)
    assert heard[:, 1000:].pow(2).mean().sqrt() == pytest.approx(0.4 / 2**0.5, rel=0.05)


def test_sound_of_a_container_with_pictures_is_extracted(sample_clips: Path) -> None:
    found = probe_sound(sample_clips / "white-disc-circle-surround.mkv")
    assert (found.audio.channels, found.duration_s) == (6, pytest.approx(2.0, abs=0.01))
    with pytest.raises(MediaError, match="has pictures but no sound"):
        probe_sound(sample_clips / "orange-disc-silent.mp4")
    with pytest.raises(MediaError, match="is not a sound that can be read: it seems to be text"):
        probe_sound(sample_clips / "not-a-video.mp4")


def test_seven_one_is_mixed_by_weights(tmp_path: Path) -> None:
    path = tmp_path / "seven.wav"
    voices = [f"0.1*sin(2*PI*{hertz}*t)" for hertz in (400, 600, 800, 50, 1000, 1200, 1400, 1600)]
    source = f"aevalsrc='{'|'.join(voices)}':s=48000:d=1.2:c=7.1"
    ffmpeg("-f", "lavfi", "-i", source, str(path))
    plan = SoundSelection(start_s=0.0, duration_s=1.0, channels=8, layout="7.1")
    left, right = torch.fft.rfft(decode_audio(path, plan)).abs() / (AUDIO_SAMPLE_RATE / 2) * 10
    front, third = 0.32041, 0.22653
    for side, levels in (
        (left, (front, 0, third, 0, third, 0, third, 0)),
        (right, (0, front, third, 0, 0, third, 0, third)),
    ):
        found = [side[hertz].item() for hertz in (400, 600, 800, 50, 1000, 1200, 1400, 1600)]
        assert found == pytest.approx(levels, abs=0.01)


def test_half_silent_sound_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "half.wav"
    ffmpeg("-f", "lavfi", "-i", "aevalsrc='0.4*sin(2*PI*440*t)*lt(t,1)':s=16000:d=2", str(path))
    assert probe_sound(path).silence_share == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("seconds", "interval", "expected"),
    [
        (0.68, 3, 0.68),
        (2.3, 3, 2.3),
        (3.0, 3, 3),
        (7.9, 3, 6),
        (0.9, 0.3, 0.9),
        (61.7, 30, 60),
        (2.999, 3, 2.99),
    ],
)
def test_lengths_of_sound(seconds: float, interval: float, expected: float) -> None:
    assert sound_length_s(seconds, interval) == expected


def test_hardly_any_sound_is_refused() -> None:
    with pytest.raises(MediaError, match=r"0\.030 s of sound, and 0\.04 s is the least"):
        sound_length_s(0.03, 3)


def test_clips_that_look_alike_are_found(tmp_path: Path) -> None:
    names = ("first.mkv", "other.mkv", "again.mp4", "later.mkv", "plain.mkv")
    sources = ("testsrc2=s=192x128", "mandelbrot=s=192x128", "", "testsrc2=s=192x128", "color=blue:s=192x128")
    for name, source in zip(names, sources, strict=True):
        given = ("-f", "lavfi", "-i", f"{source}:r=25") if source else ("-i", str(tmp_path / "first.mkv"))
        late = ("-ss", "40") if name == "later.mkv" else ()
        small = ("-crf", "36", "-s", "96x64") if name == "again.mp4" else ()
        ffmpeg(*given, *late, "-t", "1", *small, "-pix_fmt", "yuv420p", str(tmp_path / name))
    looks = {name: hash_of_clip(tmp_path / name, Pictures(0, 1.0)) for name in names}
    assert looks["plain.mkv"] is None
    found = list(alike((name, look) for name, look in looks.items() if look))
    assert found == [("again.mp4", "first.mkv")]


def test_perceptual_hashes_have_a_distance() -> None:
    base, colours = int("5" * 32, 16), "80" * 36

    def near(flips: int, tint: str = "80") -> bool:
        other = base
        for bit in range(flips):
            other ^= 1 << (bit * BITS // max(1, flips))
        return bool(list(alike([("a", f"{base:032x}{colours}"), ("b", f"{other:032x}{tint * 36}")])))

    assert [near(n) for n in (0, 1, ALIKE_BITS, ALIKE_BITS + 1, 40)] == [True, True, True, False, False]
    assert [near(0, tint) for tint in ("82", "70", "ff")] == [True, False, False]


def table(path: Path, **columns: Any) -> ParquetSettings:
    pq.write_table(pa.table(columns), path)
    return ParquetSettings(path=str(path), filename_column="file", caption_column="text")


def test_a_table_says_what_it_lacks(tmp_path: Path) -> None:
    clip = tmp_path / "b" / "fox.mp4"
    with pytest.raises(MediaError, match=r"no file in t\.parquet is 'fox\.mp4' or 'fox'"):
        from_table(table(tmp_path / "t.parquet", file=["x"], text=["y"]), clip, Bounds(tmp_path))
    with pytest.raises(MediaError, match=r"has 2 rows 'fox' in u\.parquet"):
        from_table(
            table(tmp_path / "u.parquet", file=["fox", "fox"], text=["y", "z"]), clip, Bounds(tmp_path)
        )
    with pytest.raises(MediaError, match=r"v\.parquet has no column 'text'; it has file, words"):
        from_table(table(tmp_path / "v.parquet", file=["fox"], words=["y"]), clip, Bounds(tmp_path))
    (tmp_path / "w.parquet").write_bytes(b"no table")
    broken = ParquetSettings(path=str(tmp_path / "w.parquet"), filename_column="a", caption_column="b")
    with pytest.raises(MediaError, match=r"w\.parquet cannot be read"):
        from_table(broken, clip, Bounds(tmp_path))
    both = table(tmp_path / "x.parquet", file=["b/fox.mp4", "fox.mp4"], text=[" near ", "far"])
    assert from_table(both, clip, Bounds(tmp_path)).texts == ("near",)


def test_a_table_may_be_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(
        '{"file": "fox.mp4", "text": ["one", "two"], "w": 9}\n{"file": "owl", "text": ["three"]}\n'
    )
    settings = ParquetSettings(path=str(file), filename_column="file", caption_column="text")
    assert from_table(settings, tmp_path / "fox.mp4", Bounds(tmp_path)).texts == ("one", "two")
    assert from_table(settings, tmp_path / "owl.mov", Bounds(tmp_path)).texts == ("three",)
    file.write_text("{")
    with pytest.raises(MediaError, match=r"t\.jsonl cannot be read"):
        from_table(settings, tmp_path / "fox.mp4", Bounds(tmp_path))


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["fox"], "A quick, red on the hill"),
        (["s/fox/cat/"], "A quick, red cat on the hill"),
        ([r"s/(\w+), (\w+)/\2, \1/", "A "], "red, quick fox on the hill"),
        (["s/on the/off\\/by/"], "A quick, red fox off/by hill"),
    ],
)
def test_filters_take_out_or_replace(filters: list[str], expected: str) -> None:
    assert filter_caption("A quick, red fox on the hill", filters) == expected


def test_a_caption_of_which_nothing_is_left_is_missing() -> None:
    dataset = VideoDataset(
        id="c",
        dataset_type="video",
        instance_data_dir="x",
        caption_strategy="filename",
        caption_filter_list=[".*"],
    )
    with pytest.raises(MediaError, match="caption_filter_list leaves nothing"):
        read_captions(dataset, Path("a_fox.mp4"), Bounds(Path()))


def test_captions_without_a_file_are_found(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in (
        "a.mp4",
        "b.png",
        "sub/c.WAV",
        "a.txt",
        "a.mp4.txt",
        "b.txt",
        "sub/c.txt",
        "d.txt",
        "sub/a.txt",
    ):
        (tmp_path / name).touch()
    assert [p.relative_to(tmp_path).as_posix() for p in captions_without_a_file(Bounds(tmp_path))] == [
        "d.txt",
        "sub/a.txt",
    ]
