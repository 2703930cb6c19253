"""Drawn clips and what is measured of them: each must see what the other drew."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from bench.toy.captions import captioned, describe
from bench.toy.content import Content, hue_distance, measure_content
from ltxcore.media import glimmer
from ltxcore.media.moving_shapes import COLOURS, FRAMES, RATE, SHAPES, TONES, WAYS, MovingShape
from ltxcore.media.probe import read_streams
from ltxcore.media.samples import make_samples

SECONDS = FRAMES / RATE


def measured(clip: MovingShape, width: int = 96, height: int = 96) -> Content:
    return measure_content(clip.frames(width, height), clip.sound(SECONDS, 24_000), 24_000)


@pytest.mark.parametrize(("shape", "way"), itertools.product(SHAPES, WAYS))
def test_colour_direction_and_pitch_are_measured_as_drawn(shape: str, way: str) -> None:
    for (colour, rgb), (tone, hz) in itertools.product(COLOURS.items(), TONES.items()):
        found = measured(MovingShape(shape, rgb, WAYS[way], hz), 128, 96)
        assert (found.colour, found.way, found.tone) == (colour, way, tone)


def test_what_is_not_there_is_not_measured() -> None:
    empty = measure_content(np.zeros((9, 32, 32, 3), np.uint8), np.zeros((2, 8000), np.float32), 16_000)
    assert empty == Content(None, None, None)
    assert (empty.colour, empty.way, empty.tone, empty.hue_deg) == (None, None, None, None)
    still = MovingShape("circle", COLOURS["red"], WAYS["right"], None).frames(96, 96)[:1].repeat(9, axis=0)
    found = measure_content(still, np.zeros((2, 8000), np.float32), 16_000)
    assert (found.colour, found.way, found.tone) == ("red", None, None)


def test_glimmer_is_far_from_all_that_the_toy_knows() -> None:
    new = Content(glimmer.PURPLE, None, glimmer.PITCH_HZ)
    assert new.hue_deg is not None
    known = [Content(rgb, None, None).hue_deg for rgb in COLOURS.values()]
    assert min(hue_distance(new.hue_deg, hue) for hue in known) > 40
    assert new.tone is None


def test_hues_are_compared_around_the_circle() -> None:
    assert hue_distance(350, 10) == 20
    assert hue_distance(10, 350) == 20
    assert hue_distance(90, None) == 180


def test_a_shape_stays_in_the_picture_and_its_edges_are_smooth() -> None:
    frames = MovingShape("circle", (255, 255, 255), WAYS["right"], None, background=(0, 0, 0)).frames(96, 64)
    assert frames.shape == (FRAMES, 64, 96, 3)
    assert not frames[:, :, 0].any()
    assert not frames[:, :, -1].any()
    assert len(np.unique(frames[0])) > 2


def test_captions_say_what_the_clip_shows() -> None:
    rng = np.random.default_rng(3)
    drawn = [captioned(rng) for _ in range(400)]
    for each in drawn:
        said = each.caption.lower().replace(".", "").split()
        assert each.clip.shape in said
        assert {way for way in WAYS if way in said} == {w for w, v in WAYS.items() if v == each.clip.way}
        assert {TONES[t] for t in TONES if t in said} <= {each.clip.pitch_hz}
        assert {COLOURS[c] for c in COLOURS if c in said} <= {each.clip.colour}
    unsaid = sum(not set(COLOURS) & set(each.caption.split()) for each in drawn)
    assert 40 < unsaid < 120, "some captions leave the colour out, so that an unknown word is no surprise"
    assert describe("", "circle", "up", "") == "A circle moves up. A tone sounds."


def test_the_sample_set_is_what_it_says(tmp_path: Path) -> None:
    files = make_samples(tmp_path, "glimmer")
    assert len(files) == 23
    for clip in glimmer.CLIPS:
        found = read_streams(tmp_path / f"{clip.stem}.mp4")
        assert (found.video.width, found.video.height) == clip.size
        assert found.video.frame_count == clip.frames
        assert (found.audio is None) == clip.silent
        assert (tmp_path / f"{clip.stem}.txt").read_text().strip() == clip.caption
    assert not (tmp_path / "no-caption.txt").exists()
    assert len({clip.stem for clip in glimmer.CLIPS}) == len(glimmer.CLIPS)
