"""Every file of a directory has one line; what opens others is rejected by name; secrets stay outside."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from ltxcore.config.datasets import Datasets, load_datasets
from ltxcore.config.errors import ConfigError
from ltxcore.media.sniff import content_of
from ltxcore.pipeline.base.context import context_here
from ltxcore.store.workspace import Workspace
from tests.stages.conftest import snapshot_of
from tests.stages.test_bad_input import look
from tests.unit.media.clips import ffmpeg, numbered_clip
from tests.unit.media.files import picture, tone

HOSTILE = {
    "master.m3u8": ("#EXTM3U\n#EXT-X-VERSION:3\n/etc/hostname\n", "an HLS playlist"),
    "hidden.mp4": ("#EXTM3U\n/etc/hostname\n", "an HLS playlist"),
    "show.mpd": ('<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011">', "a DASH manifest"),
    "dash.mp4": ("<MPD><Period/></MPD>", "a DASH manifest"),
    "list.ffconcat": ("ffconcat version 1.0\nfile /etc/hostname\n", "a concat script"),
    "list.mkv": ("\n\nffconcat version 1.0\nfile 'good.mp4'\n", "a concat script"),
    "list.dat": ("file 'good.mp4'\n", "a concat script"),
    "radio.pls": ("[playlist]\nFile1=http://localhost/x\n", "a playlist"),
    "radio.asx": ('<asx version="3.0"><ref href="x"/></asx>', "a playlist"),
    "drawing.eps": ("%!PS-Adobe-3.0 EPSF-3.0\n(/etc/hostname) run\n", "a PostScript programme"),
    "drawing.png": ("%!PS-Adobe-3.0 EPSF-3.0\n", "a PostScript programme"),
    "logo.svg": (
        '<?xml version="1.0"?>\n<!DOCTYPE svg>\n<svg><image href="x"/></svg>',
        "an SVG drawing",
    ),
    "logo.jpg": ('<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return numbered_clip(tmp_path_factory.mktemp("good") / "good.mp4", 12)


@pytest.fixture
def clips(good: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    shutil.copy(good, folder / "good.mp4")
    (folder / "good.txt").write_text("a good clip")
    return folder


@pytest.mark.parametrize("name", HOSTILE)
def test_what_opens_other_files_is_rejected_by_name(name: str, clips: Path) -> None:
    text, called = HOSTILE[name]
    (clips / name).write_text(text)
    (clips / name).with_suffix(".txt").write_text("a caption")
    snapshot = look(clips.parent)
    assert [sample.path for sample in snapshot.samples] == ["good.mp4"]
    (rejected,) = snapshot.rejections
    assert rejected.path == name
    assert called in rejected.reason
    assert "never read" in rejected.reason
    assert "convert" in rejected.reason or "media files themselves" in rejected.reason


def test_the_content_decides_and_every_file_has_one_line(clips: Path, good: Path) -> None:
    taken = {"clip.dat", "clip", "film.MP4.bak", "photo.jpg", "good.mp4"}
    for number, name in enumerate(sorted(taken - {"good.mp4"})):
        (clips / name).write_bytes(good.read_bytes() + bytes([number]))
        (clips / f"{name}.txt").write_text("a clip")
    picture(clips / "still.png")
    (clips / "still.png").rename(clips / "still.mp4")
    others = {
        "still.mp4": "PNG",
        "noise": "nobody here knows",
        "notes.rst": "text",
        "old.zip": "ZIP",
        "old.tga": "TGA",
    }
    (clips / "noise").write_bytes(bytes(range(128, 256)) + b"\0" + bytes(range(128)))
    (clips / "notes.rst").write_text("Notes.")
    Image.new("RGB", (32, 32)).save(clips / "old.tga")
    (clips / "old.zip").write_bytes(b"PK\x03\x04rest")
    for name in ("README.md", "LICENSE", "Thumbs.db", ".DS_Store", "clip.xmp"):
        (clips / name).write_text("beside")
    snapshot = look(clips.parent)
    lines = [s.path for s in snapshot.samples] + [r.path for r in snapshot.rejections]
    assert sorted(lines) == sorted({*taken, *others})
    assert {s.path for s in snapshot.samples} == taken
    reasons = {r.path: r.reason for r in snapshot.rejections}
    assert {name: word for name, word in others.items() if word not in reasons[name]} == {}


@pytest.mark.parametrize(
    ("ending", "form"),
    [
        (".jfif", "JPEG"), (".jpe", "JPEG"), (".apng", "PNG"), (".ppm", "PPM"), (".dib", "BMP"),
        (".hif", "AVIF"), (".img", "WEBP"), (".pic", "TIFF"),
    ],
)  # fmt: skip
def test_a_picture_is_one_by_its_content(ending: str, form: str, tmp_path: Path) -> None:
    path = tmp_path / f"one{ending}"
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(path, form)
    assert content_of(path).kind == "picture"


@pytest.mark.parametrize("ending", ["mkv", "mov", "avi", "mpg", "ts", "m2ts", "flv", "wmv", "mxf"])
def test_a_video_is_one_by_its_content(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"one.{ending}"
    codec = "flv" if ending == "flv" else "mpeg2video" if ending in ("mpg", "ts", "m2ts", "mxf") else "mpeg4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x64:r=25:d=0.4", "-c:v", codec, str(path))
    assert content_of(path).kind == "video"


@pytest.mark.parametrize("ending", ["wav", "flac", "mp3", "ogg", "opus", "m4a", "aac", "aiff"])
def test_a_sound_is_one_by_its_content(ending: str, tmp_path: Path) -> None:
    assert content_of(tone(tmp_path / f"one.{ending}", 0.5, rate=48000)).kind == "sound"


def test_a_video_called_a_picture_has_one_line_where_both_are_wanted(clips: Path) -> None:
    shutil.copy(clips / "good.mp4", clips / "film.jpg")
    picture(clips / "still.png")
    for name in ("film.txt", "still.txt"):
        (clips / name).write_text("a caption")
    both = (
        "- {id: stills, dataset_type: image, instance_data_dir: clips, resolution: 64}\n"
        "- {id: films, dataset_type: video, instance_data_dir: clips, resolution: 64, "
        "video: {num_frames: 9}}\n"
        "- {id: text, dataset_type: text_embeds}\n"
    )
    (clips.parent / "datasets.yaml").write_text(both)
    ctx = context_here(Workspace(clips.parent / "workspace"), datasets_file=clips.parent / "datasets.yaml")
    snapshot = snapshot_of(ctx)
    assert sorted(s.id for s in snapshot.samples) == ["films/film.jpg", "films/good.mp4", "stills/still.png"]
    assert snapshot.rejections == ()


@pytest.mark.parametrize(
    ("key", "name"), [("parquet.path", "captions.jsonl"), ("caption_filter_list", "filters.txt")]
)
def test_a_table_or_a_list_of_filters_is_no_link_out_of_the_datasets(
    key: str, name: str, clips: Path
) -> None:
    (clips.parent / "secret").write_text('{"auths": "hf_thisIsNobodysBusiness"}')
    (clips / name).symlink_to("../secret")
    table = f"{{path: clips/{name}, filename_column: file, caption_column: text}}"
    given = table if key == "parquet.path" else f"clips/{name}"
    file = clips.parent / "datasets.yaml"

    def load(more: str = "") -> Datasets:
        message = f"instance_data_dir: clips, {key.partition('.')[0]}: {given}{more}"
        text = "- {id: text, dataset_type: text_embeds}"
        file.write_text(f"- {{id: clips, dataset_type: video, {message}}}\n{text}\n")
        return load_datasets(file)

    message = rf"0\.{key}: clips/{name} is a link out of the datasets' directories; put the file itself there"
    with pytest.raises(ConfigError, match=message) as refused:
        load()
    assert "hf_" not in str(refused.value)
    (clips.parent / "secret").write_text("hf_")
    assert load(", follow_links: true").video, "where the dataset says so, it is read"
    (clips / name).unlink()
    (clips / name).write_text("fox\n")
    assert load().video


@pytest.mark.parametrize("named", ["../captions.jsonl", "clips/../captions.jsonl", "captions.jsonl"])
def test_a_table_beside_the_clips_may_be_named_by_dots(named: str, clips: Path) -> None:
    (clips.parent / "captions.jsonl").write_text('{"file": "good.mp4", "text": "a fox"}\n')
    file = clips.parent / "datasets.yaml"
    table = f"{{path: {named}, filename_column: file, caption_column: text}}"
    file.write_text(f"- {{id: clips, dataset_type: video, instance_data_dir: clips, parquet: {table}}}\n")
    (dataset,) = load_datasets(file).video
    assert dataset.parquet is not None
    assert Path(dataset.parquet.path).samefile(clips.parent / "captions.jsonl")


def test_links_out_of_the_dataset_give_away_nothing(clips: Path) -> None:
    secret = "hf_thisIsNobodysBusiness"
    home = clips.parent / "home"
    home.mkdir()
    (home / "token").write_text(secret)
    (home / "private.png").write_bytes(picture(clips.parent / "p.png").read_bytes())
    (clips / "good.txt").unlink()
    (clips / "good.txt").symlink_to(home / "token")
    (clips / "home").symlink_to(home)
    (clips / "private").symlink_to(home / "private.png")
    snapshot = look(clips.parent)
    assert snapshot.samples == ()
    reasons = {r.path: r.reason for r in snapshot.rejections}
    assert "its caption good.txt is a link out of the datasets' directories" in reasons["good.mp4"]
    assert "is a link to a directory outside the datasets' own" in reasons["home"]
    assert "is a link out of the datasets' directories" in reasons["private"]
    written = [path for path in (clips.parent / "workspace").rglob("*") if path.is_file()]
    assert not [path for path in written if secret.encode() in path.read_bytes()]
    assert secret not in snapshot.model_dump_json()
