"""Captions: where they are looked for, how they are read, and what is said when there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ltxcore.config.dataset_kinds import VideoDataset
from ltxcore.media.captions import read_captions as read_all
from ltxcore.media.dataset_files import Bounds
from ltxcore.media.errors import MediaError


def dataset(**more: Any) -> VideoDataset:
    return VideoDataset(id="clips", dataset_type="video", instance_data_dir="clips", **more)


def read_captions(chosen: VideoDataset, path: Path) -> tuple[str, ...]:
    return read_all(chosen, path, Bounds(path.parent)).texts


def test_every_line_that_is_not_empty_is_a_caption(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffA fox.\r\n\r\n  Ein Füchslein. \r\nlast".encode())
    assert read_captions(dataset(), tmp_path / "a.mp4") == ("A fox.", "Ein Füchslein.", "last")
    whole = read_captions(dataset(disable_multiline_split=True), tmp_path / "a.mp4")
    assert whole == ("A fox.\n\nEin Füchslein.\nlast",)


def test_the_longer_name_wins_so_that_twins_can_differ(sample_clips: Path) -> None:
    mp4, mov = (read_captions(dataset(), sample_clips / name) for name in ("twin.mp4", "twin.mov"))
    assert "red box" in mp4[0]
    assert "blue disc" in mov[0]


def test_what_is_wrong_with_a_caption_is_said(tmp_path: Path, sample_clips: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n\n")
    (tmp_path / "latin.txt").write_bytes("Füchse".encode("latin-1"))
    reasons = {
        sample_clips
        / "no-caption.mp4": "has no caption: expected no-caption.txt or no-caption.mp4.txt beside it",
        tmp_path / "empty.mp4": "its caption empty.txt is empty",
        tmp_path / "latin.mp4": r"its caption latin.txt is not UTF-8 \(byte 1\)",
    }
    for path, reason in reasons.items():
        with pytest.raises(MediaError, match=reason):
            read_captions(dataset(), path)


def test_a_name_or_a_prompt_can_be_the_caption() -> None:
    path = Path("clips/a_red_fox.mp4")
    assert read_captions(dataset(caption_strategy="filename"), path) == ("a red fox",)
    for strategy in ("instanceprompt", "instance_prompt"):
        prompt = dataset(caption_strategy=strategy, instance_prompt="sks fox ", prepend_instance_prompt=True)
        assert read_captions(prompt, path) == ("sks fox",)
    both = dataset(caption_strategy="filename", instance_prompt="sks,", prepend_instance_prompt=True)
    assert read_captions(both, path) == ("sks, a red fox",)
    with pytest.raises(MediaError, match="its name holds no words"):
        read_captions(dataset(caption_strategy="filename"), Path("___.mp4"))
