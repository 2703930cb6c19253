"""Frame plans: which source frame stands at each output time, exactly."""

from __future__ import annotations

from fractions import Fraction
from itertools import groupby, pairwise
from typing import Any

import pytest

from ltxcore.config.dataset_blocks import VideoSettings
from ltxcore.media.errors import MediaError
from ltxcore.media.frames import select_frames
from ltxcore.media.probe import MediaProbe, VideoStream


def clip(times: list[int], time_base: str, last_duration: int, notes: tuple[str, ...] = ()) -> MediaProbe:
    """A probe of a clip with these timestamps."""
    steps = tuple((step, len(list(run))) for step, run in groupby(b - a for a, b in pairwise(times)))
    video = VideoStream(
        index=0, codec="h264", width=64, height=64, stored=(64, 64), rotation=0, sample_aspect_ratio="1:1",
        pixel_format="yuv420p", bit_depth=8, time_base=time_base, first_pts=times[0],
        steps=steps, last_duration=last_duration,
    )  # fmt: skip
    return MediaProbe(
        container="mp4", duration_s=video.duration_s, video=video, audio=None, loudness_lufs=None, notes=notes
    )


def constant(frames: int, rate: str) -> MediaProbe:
    step = 1 / Fraction(rate)
    return clip([n * step.numerator for n in range(frames)], f"1/{step.denominator}", step.numerator)


def matroska(frames: int, rate: str) -> MediaProbe:
    """Timestamps rounded to milliseconds, the last duration cut to them."""
    return clip(
        [round(n * 1000 / Fraction(rate)) for n in range(frames)], "1/1000", int(1000 / Fraction(rate))
    )


def settings(num_frames: int = 17, **more: Any) -> VideoSettings:
    return VideoSettings(num_frames=num_frames, **more)


def test_equal_rates_take_every_frame() -> None:
    assert select_frames(constant(50, "25"), settings()).indices == tuple(range(17))


def test_50_fps_takes_every_second_frame() -> None:
    assert select_frames(constant(80, "50"), settings()).indices == tuple(range(0, 34, 2))


def test_24_fps_shows_one_frame_twice_a_second() -> None:
    indices = select_frames(constant(48, "24"), settings(33)).indices
    assert indices == tuple(24 * k // 25 for k in range(33))
    assert indices[:4] == (0, 0, 1, 2)
    assert indices[24:28] == (23, 24, 24, 25)


def test_ntsc_drops_frames_by_time() -> None:
    indices = select_frames(constant(54, "30000/1001"), settings()).indices
    assert indices == (0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 13, 14, 15, 16, 17, 19)


def test_ntsc_to_its_own_rate_takes_every_frame_although_29_97_is_rounded() -> None:
    indices = select_frames(constant(54, "30000/1001"), settings(frame_rate=29.97)).indices
    # 29.97 is slower than 30000/1001 by one part in a million, far less than half a tick over a clip.
    assert indices == tuple(range(17))


@pytest.mark.parametrize("rate", ["24", "25", "30", "50", "48", "60"])
def test_matroska_rounding_changes_no_choice(rate: str) -> None:
    exact, rounded = (select_frames(make(150, rate), settings(49)) for make in (constant, matroska))
    assert rounded.indices == exact.indices


@pytest.mark.parametrize("make", [constant, matroska])
@pytest.mark.parametrize("rate", ["24000/1001", "30000/1001", "60000/1001", "23.5"])
def test_every_choice_is_what_is_shown_up_to_a_millisecond(rate: str, make: Any) -> None:
    for k, index in enumerate(select_frames(make(150, rate), settings(49)).indices):
        shown_s, next_s = index / Fraction(rate), (index + 1) / Fraction(rate)
        assert shown_s - Fraction(1, 1000) <= Fraction(k, 25) < next_s + Fraction(1, 1000)


def test_a_variable_rate_takes_what_is_shown_at_each_time() -> None:
    # Shown at 0, 10, 90, 100, 105, 240, 245, 330, 400, 520 and 610 ms; asked for at 0, 40, 80 ... ms.
    probe = clip([0, 10, 90, 100, 105, 240, 245, 330, 400, 520, 610], "1/1000", 100)
    assert select_frames(probe, settings()).indices == (0, 1, 1, 4, 4, 4, 5, 6, 6, 7, 8, 8, 8, 9, 9, 9, 10)


def test_a_late_first_frame_is_time_zero_of_the_sample() -> None:
    probe = clip([1000 + 40 * n for n in range(20)], "1/1000", 40)
    plan = select_frames(probe, settings())
    assert plan.indices == tuple(range(17))
    assert plan.start_s == 1.0
    assert (plan.count, plan.duration_s) == (17, 0.68)


def test_num_frames_is_rounded_down_to_8n_plus_1() -> None:
    assert select_frames(constant(61, "25"), settings(61)).count == 57
    assert select_frames(constant(200, "25"), settings(61)).count == 57


def test_shorter_and_longer_clips_are_dropped_with_the_reason() -> None:
    with pytest.raises(MediaError, match="too short: it has 16 frames at 25 fps, and num_frames is 17"):
        select_frames(constant(16, "25"), settings())
    with pytest.raises(MediaError, match="too short: it has 16 frames at 25 fps, and min_frames is 20"):
        select_frames(constant(16, "25"), settings(min_frames=20))
    with pytest.raises(MediaError, match="too long: it has 30 frames at 25 fps, and max_frames is 29"):
        select_frames(constant(30, "25"), settings(max_frames=29))
    with pytest.raises(MediaError, match=r"too short.*the file ends early: 9 of 50"):
        select_frames(
            clip([0, 1], "1/25", 1, ("the file ends early: 9 of 50 frames are readable",)), settings()
        )


def test_length_counts_time_not_frames() -> None:
    assert (
        select_frames(constant(20, "30"), settings(min_frames=16)).count == 9
    )  # 0.667 s is 16 frames at 25 fps
    with pytest.raises(MediaError, match="it has 16 frames"):
        select_frames(constant(20, "30"), settings())


@pytest.mark.parametrize("make", [constant, matroska])
@pytest.mark.parametrize("rate", ["24", "30", "50", "24000/1001", "48"])
def test_a_clip_of_exactly_two_seconds_or_a_little_more_is_50_frames(make: Any, rate: str) -> None:
    frames = -(-2 * Fraction(rate).numerator // Fraction(rate).denominator)
    assert select_frames(make(frames, rate), settings(49, min_frames=50, max_frames=50)).count == 49


def test_a_clip_admitted_by_min_frames_keeps_its_own_length() -> None:
    assert select_frames(constant(30, "25"), settings(49, min_frames=9)).count == 25


@pytest.mark.parametrize(
    ("frames", "interval", "expected"),
    [(50, 1, 49), (50, 10, 49), (47, 10, 33), (7, 10, 1), (64, 16, 57), (40, 1, 33)],
)
def test_resolution_frames_uses_the_clips_own_length(frames: int, interval: int, expected: int) -> None:
    own = settings(
        17, min_frames=1, max_frames=64, bucket_strategy="resolution_frames", frame_interval=interval
    )
    assert select_frames(constant(frames, "25"), own).count == expected
