"""Frames that do not say that they are made of two fields: found by their combs, and whole ones left alone.

`python -m bench.interlacing` tries the same in more sizes, rates and qualities, and writes the table in
bench/results.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.interlacing import score
from bench.interlacing_clips import FIELDS, MOVING, TELECINE, WHOLE, encode
from ltxcore.media.probe import probe

SIZE, QUALITY = "480x270", 18
LIKELY = (
    "testsrc2",
    "texture, 1 line up a frame",
    "noise",
    "cellauto, rule 110",
    "life, large cells",
    "lines of 1, flickering",
    "lines of 2, 1 up a frame",
    "window blinds swinging",
    "credits, 1 line up a frame",
    "credits, 2 lines up a frame",
)
"""Of the whole ones those that idet, or an earlier detector, took for fields."""
SEEN = ("soft shapes, sideways", "bar, fast", "soft shapes, slanting")


@pytest.mark.parametrize("name", LIKELY)
def test_whole_frames_are_not_taken_for_fields_by_a_margin(name: str, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    encode(clip, WHOLE[name], SIZE, "60", "", QUALITY)
    assert score(clip).both < 0.95
    assert probe(clip).video.field_order is None


@pytest.mark.parametrize("name", SEEN)
@pytest.mark.parametrize("fields", FIELDS)
def test_fields_are_found_in_their_order(name: str, fields: str, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    encode(clip, MOVING[name], SIZE, "50", FIELDS[fields], QUALITY)
    assert probe(clip).video.field_order == ("tff" if fields.startswith("top") else "bff")


def test_telecined_frames_are_fields_too(tmp_path: Path) -> None:
    """Two of every five are woven of neighbours."""
    clip = tmp_path / "clip.mp4"
    encode(clip, MOVING["soft shapes, sideways"], SIZE, "24", TELECINE["telecine"], QUALITY)
    assert probe(clip).video.field_order == "tff"
