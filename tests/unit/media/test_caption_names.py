"""Captions are found as a person would find them."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ltxcore.config.dataset_blocks import ParquetSettings
from ltxcore.config.dataset_kinds import VideoDataset
from ltxcore.media.caption_table import from_table
from ltxcore.media.captions import Captions, read_captions
from ltxcore.media.dataset_files import Bounds
from ltxcore.media.errors import MediaError


def read(clip: Path, **more: Any) -> Captions:
    chosen = VideoDataset(id="c", dataset_type="video", instance_data_dir="x", **more)
    return read_captions(chosen, clip, Bounds(clip.parent, chosen.follow_links))


@pytest.mark.parametrize(("clip", "text"), [("UPPER.MP4", "UPPER.TXT"), ("Mixed.MP4", "mixed.txt")])
def test_letter_case_may_differ_and_is_said(clip: str, text: str, tmp_path: Path) -> None:
    (tmp_path / text).write_text("a clip")
    found = read(tmp_path / clip)
    assert found.texts == ("a clip",)
    assert found.notes == (f"its caption is {text}: the letter case differs",)


def test_the_exact_name_comes_first_and_two_others_are_too_many(tmp_path: Path) -> None:
    for name in ("CLIP.txt", "Clip.TXT"):
        (tmp_path / name).write_text(name)
    with pytest.raises(MediaError, match=r"more than one caption by its name: CLIP\.txt and Clip\.TXT; keep"):
        read(tmp_path / "clip.mp4")
    assert read(tmp_path / "CLIP.mp4") == Captions(("CLIP.txt",))
    (tmp_path / "clip.txt").write_text("mine")
    assert read(tmp_path / "clip.mp4") == Captions(("mine",))


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_count_however_they_are_stored(forms: tuple[Any, Any], tmp_path: Path) -> None:
    clip, text = (unicodedata.normalize(form, "Füchslein é") for form in forms)
    (tmp_path / f"{text}.txt").write_text("a fox")
    assert read(tmp_path / f"{clip}.mp4") == Captions(("a fox",))


def test_marks_of_byte_order_are_no_words(tmp_path: Path) -> None:
    clip = tmp_path / "a.mp4"
    (tmp_path / "a.txt").write_text("\ufeff\ufeffa fox\n\ufeffan owl\n\ufeff\n")
    assert read(clip).texts == ("a fox", "an owl")
    for encoding in ("utf-16-le", "utf-16-be"):
        (tmp_path / "a.txt").write_bytes("\ufeffein Füchslein".encode(encoding))
        assert read(clip).texts == ("ein Füchslein",)
    (tmp_path / "a.txt").write_bytes(b"a fox\0\0")
    with pytest.raises(MediaError, match=r"a\.txt holds zero bytes \(the first is character 5\)"):
        read(clip)


def test_a_link_to_a_secret_is_no_caption(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_secret")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.txt").symlink_to(tmp_path / "token")
    with pytest.raises(MediaError, match=r"its caption a\.txt is a link out of the datasets") as caught:
        read(tmp_path / "set" / "a.mp4")
    assert "hf_secret" not in str(caught.value)
    assert read(tmp_path / "set" / "a.mp4", follow_links=True).texts == ("hf_secret",)


def table(path: Path, files: list[str]) -> ParquetSettings:
    pq.write_table(pa.table({"file": files, "text": [f"row {n}" for n in range(len(files))]}), path)
    return ParquetSettings(path=str(path), filename_column="file", caption_column="text")


@pytest.mark.parametrize(
    "row",
    [
        "{root}/sub/one.mp4",
        "/mnt/of/another/machine/sub/one.mp4",
        "D:\\work\\set\\sub\\one.mp4",
        "\\\\server\\share\\sub\\one.mp4",
        "file:///mnt/set/sub/one.mp4",
        "sub\\one.mp4",
        "./sub/one.mp4",
        "set/sub/one.mp4",
        "one.mp4",
        "one",
        "D:/set/sub/one",
    ],
)
def test_a_row_names_a_clip_by_any_path_that_people_write(row: str, tmp_path: Path) -> None:
    root = tmp_path / "set"
    (root / "sub").mkdir(parents=True)
    settings = table(tmp_path / "t.parquet", ["two.mp4", row.format(root=root)])
    assert from_table(settings, root / "sub" / "one.mp4", Bounds(root)) == (("row 1",), "")


def test_a_row_of_another_file_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "one.mp4").touch()
    for row in ("b/one.mp4", "/old/set/b/one.mp4", "C:\\set\\b\\one", "xone.mp4", "/old/one.mp4/two.mp4"):
        with pytest.raises(MediaError, match="has no caption: no file"):
            from_table(table(tmp_path / "t.parquet", [row]), tmp_path / "one.mp4", Bounds(tmp_path))
        assert row


def test_the_nearest_row_wins_and_letter_case_is_noted(tmp_path: Path) -> None:
    rows = ["/x/one.mp4", f"{tmp_path}/one.mp4", "ONE.mp4", "two.MP4"]
    settings = table(tmp_path / "t.parquet", rows)
    assert from_table(settings, tmp_path / "one.mp4", Bounds(tmp_path)).texts == ("row 1",)
    found = from_table(settings, tmp_path / "Two.mp4", Bounds(tmp_path))
    assert found == (("row 3",), "its caption in t.parquet (row 'two.MP4') is of another letter case")


def test_a_table_may_be_a_json_array(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    rows = [{"file": "one.mp4", "text": "\ufefffirst"}, {"file": "two.mp4", "text": ["a", "b"], "w": 1}]
    file.write_text("\ufeff" + json.dumps(rows, indent=1))
    settings = ParquetSettings(path=str(file), filename_column="file", caption_column="text")
    assert from_table(settings, tmp_path / "one.mp4", Bounds(tmp_path)).texts == ("first",)
    assert from_table(settings, tmp_path / "two.mp4", Bounds(tmp_path)).texts == ("a", "b")
    file.write_text('["one.mp4"]')
    with pytest.raises(MediaError, match=r"t\.json cannot be read: its entry 1 is not an object"):
        from_table(settings, tmp_path / "one.mp4", Bounds(tmp_path))
    file.write_text('[{"file": "one.mp4", "text": "a\\u0000b"}]')
    with pytest.raises(MediaError, match="holds zero bytes"):
        from_table(settings, tmp_path / "one.mp4", Bounds(tmp_path))
