"""Which source frames a sample shows: frames resampled by their timestamps, never by counting.

All times are exact fractions, so 30000/1001 and variable frame rates need no special case.
"""

from __future__ import annotations

from bisect import bisect_right
from fractions import Fraction
from math import floor

from ltxcore.config.dataset_blocks import VideoSettings
from ltxcore.config.geometry import GEOMETRY
from ltxcore.media.errors import MediaError
from ltxcore.media.probe import MediaProbe, VideoStream
from ltxcore.store.snapshot import FrameSelection

MAX_ROUNDING_S = Fraction(1, 2000)
MAX_SLACK_S = Fraction(2, 1000)
"""Containers round the start and length of the last frame to a tick each (1 ms in Matroska)."""


def select_frames(probe: MediaProbe, settings: VideoSettings, fixed: int | None = None) -> FrameSelection:
    """Choose the frames of a sample.

    Output frame k stands for the time t_k = t_first + k / frame_rate and takes the source frame that is
    shown then: the last one whose timestamp is at most t_k, or later by what rounding to ticks explains
    (half a tick, at most half a millisecond: coarser ticks are whole frames, and exact).
    A clip slower than `frame_rate` repeats frames, a faster one skips some. The count is 8n+1: for
    `aspect_ratio` the dataset's num_frames, or the clip's own length where min_frames admits a shorter
    clip; for `resolution_frames` the clip's own length, floored to `frame_interval` first. `fixed` is the
    length of a bucket that the dataset names, where it names any.

    Raises:
        MediaError: the clip is shorter than min_frames or longer than max_frames at `frame_rate`, or a
            frame that is needed is damaged.
    """
    rate = Fraction(str(settings.frame_rate))
    available = available_frames(probe.video, rate)
    _check_length(available, settings, probe, fixed)
    wanted = available
    if fixed is not None:
        wanted = fixed
    elif settings.bucket_strategy == "aspect_ratio":
        wanted = min(settings.num_frames, available)
    elif available >= settings.frame_interval:
        wanted = available - available % settings.frame_interval
    count = GEOMETRY.legal_frames(wanted)
    tick_s = probe.video.tick_s
    rounding = min(Fraction(1, 2), MAX_ROUNDING_S / tick_s)
    times, shown = probe.video.timestamps(), probe.video.shown_from_first()
    indices = tuple(bisect_right(shown, floor(k / (rate * tick_s) + rounding)) - 1 for k in range(count))
    _check_whole(probe.video, indices)
    return FrameSelection(
        indices=indices,
        times=tuple(times[index] for index in indices),
        track=probe.video.index,
        fps=settings.frame_rate,
        start_s=probe.video.start_s,
        deinterlaced=settings.deinterlace == "auto" and (probe.video.field_order or probe.video.interlaced),
        on_white=probe.video.seen_through,
    )


def _check_whole(video: VideoStream, indices: tuple[int, ...]) -> None:
    wanted = set(indices)
    hurt = [wanted.intersection(range(first, first + count)) for first, count in video.damaged]
    if any(hurt):
        number = sum(map(len, hurt))
        raise MediaError(
            f"does not decode: {number} of the {len(wanted)} frames needed are damaged; "
            f"ffmpeg says: {video.damage}"
        )


def available_frames(video: VideoStream, rate: Fraction) -> int:
    """How many frames at `rate` a stream lasts, from its first frame's start to its last one's end."""
    slack_s = min(2 * video.tick_s, MAX_SLACK_S)
    return floor((video.duration_ticks * video.tick_s + slack_s) * rate)


def _check_length(available: int, settings: VideoSettings, probe: MediaProbe, fixed: int | None) -> None:
    length = f"{available} frames at {settings.frame_rate:g} fps"
    if available < (settings.shortest if fixed is None else settings.min_frames or fixed):
        key = "num_frames" if settings.min_frames is None else "min_frames"
        because = "".join(f" ({note})" for note in probe.notes if "ends early" in note)
        raise MediaError(f"is too short: it has {length}, and {key} is {settings.shortest}{because}")
    if settings.max_frames is not None and available > settings.max_frames:
        raise MediaError(f"is too long: it has {length}, and max_frames is {settings.max_frames}")
    if available < 1:
        raise MediaError(f"is too short: it has {length}")
