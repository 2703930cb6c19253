"""Which samples of a snapshot are trained on under a recipe's conditioning."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from ltxcore.config.conditioning_settings import ConditioningSettings
from ltxcore.pipeline.data.learnable import NothingLearnt, learnable, tell_left_out
from ltxcore.store.snapshot import ConditioningClip, FrameSelection, Geometry, Sample, SoundSelection

FRAMES = FrameSelection(indices=tuple(range(9)), fps=25.0, start_s=0.0)
GEOMETRY = Geometry(source=(64, 64), resize=(64, 64), crop_xy=(0, 0), target=(64, 64))
SOUND = SoundSelection(start_s=0.0, duration_s=0.36, channels=2, layout="stereo")


def clip(name: str, *, audio: SoundSelection | None = SOUND, **more: Any) -> Sample:
    return Sample(
        id=f"clips/{name}", dataset="clips", path=name, media_id=name, captions=("a clip",), frames=FRAMES,
        geometry=GEOMETRY, audio=audio, source_fps=25.0, source_duration_s=0.36, **more,
    )  # fmt: skip


def given(**modalities: Any) -> ConditioningSettings:
    return ConditioningSettings.model_validate(modalities)


HEARD, SILENT, ALONE = clip("heard.mp4"), clip("silent.mp4", audio=None), clip("alone.wav", kind="audio")


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, [HEARD, SILENT, ALONE]),
        ({"video": {"mode": "frozen"}}, [HEARD, ALONE]),
        ({"audio": {"mode": "frozen"}}, [HEARD, SILENT]),
    ],
)
def test_samples_with_nothing_to_learn_are_left_out(settings: dict[str, Any], kept: list[Sample]) -> None:
    assert learnable([HEARD, SILENT, ALONE], given(**settings)) == kept


def test_where_nothing_is_left_it_is_an_error() -> None:
    with pytest.raises(
        NothingLearnt, match=r"conditioning\.video\.mode is frozen, and none of the 1 samples"
    ):
        learnable([SILENT], given(video={"mode": "frozen"}))
    with pytest.raises(NothingLearnt, match=r"conditioning\.audio\.mode"):
        learnable([ALONE], given(audio={"mode": "frozen"}))


@pytest.mark.parametrize("kind", ["reference", "mask"])
def test_a_condition_needs_samples_that_can_give_it(kind: str) -> None:
    settings = given(video={"conditions": [{"type": kind}]})
    with pytest.raises(NothingLearnt, match=f"a {kind} condition"):
        learnable([HEARD], settings)
    condition = ConditioningClip(
        purpose=kind, id="x", dataset="x", kind="video", path="x", media_id="x", frames=FRAMES,
        geometry=GEOMETRY,
    )  # fmt: skip
    with_it = clip("more.mp4", **{kind: condition})
    assert learnable([HEARD, with_it], settings) == [HEARD, with_it]


def test_a_reference_sets_a_clip_apart_and_a_mask_does_not() -> None:
    small = GEOMETRY.model_copy(update={"target": (32, 32)})
    parts = {
        kind: ConditioningClip(
            purpose=kind, id="x", dataset="x", kind="video", path="x", media_id="x", frames=FRAMES,
            geometry=small,
        )
        for kind in ("reference", "mask")
    }  # fmt: skip
    assert clip("a.mp4", mask=parts["mask"]).bucket == "64x64@9"
    assert clip("a.mp4", **parts).bucket == "64x64@9+32x32@9"


def test_what_is_left_out_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    settings = given(video={"mode": "frozen"})
    samples = [HEARD, *(clip(f"{n}.mp4", audio=None) for n in range(5))]
    with caplog.at_level(logging.WARNING):
        tell_left_out(samples, learnable(samples, settings), settings)
    assert "clips/0.mp4, clips/1.mp4, clips/2.mp4 and 2 more are left out" in caplog.text
