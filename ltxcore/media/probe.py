"""What is in a media file: its streams, the exact time of every frame, and how loud it is.

Only sound is decoded, for its loudness.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from ltxcore.config.base import Strict
from ltxcore.media.errors import MediaError, Undecided
from ltxcore.media.likeness import look_of
from ltxcore.media.packets import FrameTimes, read_frame_times
from ltxcore.media.sniff import seems_to_be
from ltxcore.media.sound_and_look import measure
from ltxcore.media.speakers import stereo_weights
from ltxcore.media.streams import (
    AudioStream,
    Fields,
    check_file,
    ffprobe_packets,
    first_sound,
    is_sound,
    seconds,
)

MIN_EDGE = 16
HDR_TRANSFERS = {"smpte2084": "PQ", "arib-std-b67": "HLG"}
SEEN_THROUGH = re.compile(r"yuva|gbrap|ya\d|rgba|argb|bgra|abgr")
NOTED_OFFSET_S = 0.04
NOTED_SILENCE = 0.9


class VideoStream(Strict):
    """The picture track. Sizes are those of the displayed picture: turned, with square pixels."""

    index: int
    codec: str
    width: int
    height: int
    stored: tuple[int, int]
    rotation: int
    """Degrees clockwise by which a player turns the stored picture."""
    sample_aspect_ratio: str
    pixel_format: str
    bit_depth: int
    colour_space: str | None
    time_base: str
    """Seconds of a tick, as a fraction."""
    first_pts: int
    steps: tuple[tuple[int, int], ...]
    """Ticks from each frame to the next in presentation order, as runs of (ticks, how often)."""
    last_duration: int
    """Ticks for which the last frame is shown."""
    late_by: int = 0
    """Ticks by which every frame is shown later than its timestamp says (`packets.FrameTimes`)."""

    @property
    def tick_s(self) -> Fraction:
        return Fraction(self.time_base)

    @property
    def start_s(self) -> float:
        """When the first frame is shown, on the clock of the file's sound."""
        return float((self.first_pts + self.late_by) * self.tick_s)

    @property
    def frame_count(self) -> int:
        return 1 + sum(count for _, count in self.steps)

    def timestamps(self) -> list[int]:
        """Presentation time of every frame in ticks, strictly increasing; frame i of a plan is entry i."""
        times = [self.first_pts]
        for step, count in self.steps:
            before = times[-1]
            times.extend(before + step * n for n in range(1, count + 1))
        return times

    @property
    def duration_s(self) -> float:
        """From the first frame's appearance to the last one's end."""
        ticks = sum(step * count for step, count in self.steps) + self.last_duration
        return float(ticks * self.tick_s)

    @property
    def fps(self) -> float:
        """Mean frame rate."""
        return self.frame_count / self.duration_s


class MediaProbe(Strict):
    """Everything that later stages may ask about a file without opening it again."""

    container: str
    duration_s: float
    video: VideoStream
    audio: AudioStream | None
    loudness_lufs: float | None
    """Integrated loudness (EBU R128); None when silent or without sound."""
    silence_share: float | None = None
    """The part of the sound's time that is silent, 0 to 1; None without sound."""
    sound_fault: str | None = None
    """Why its sound cannot be used, where it has any: the pictures may be wanted without it."""
    look: str | None = None
    """Near duplicates have nearly equal ones (`likeness.look_of`)."""
    notes: tuple[str, ...]

    @property
    def audio_offset_s(self) -> float | None:
        """How much later than the first frame the sound begins; None without sound."""
        if self.audio is None:
            return None
        return self.audio.start_s - self.video.start_s


def probe(path: Path) -> MediaProbe:
    """Read the streams of a file, the times of its frames, its loudness and its look.

    Raises:
        MediaError: it cannot be used as a clip; the reason says what it is instead or what is missing.
    """
    found = read_streams(path)
    seen: dict[str, Any] = {}
    try:
        if found.audio is not None:
            stereo_weights(found.audio.layout, found.audio.channels)
        look, loudness = measure(path, found.video.index, found.video.duration_s, found.audio)
    except Undecided:
        raise
    except MediaError as fault:
        look, loudness = look_of(path, found.video.index, found.video.duration_s), None
        seen["sound_fault"] = str(fault)
    seen["look"] = look
    if loudness is not None:
        seen["loudness_lufs"], seen["silence_share"] = loudness.lufs, loudness.silence_share
        seen["notes"] = (*found.notes, *_sound_notes(found, loudness.silence_share))
    return found.model_copy(update=seen)


def read_streams(path: Path) -> MediaProbe:
    """`probe` without the loudness and the look, which are the parts that have to decode.

    Raises:
        MediaError: as `probe`.
    """
    check_file(path)
    listing = ffprobe_packets(path)
    report = listing.report
    video = next((s for s in report.streams if _is_picture(s)), None)
    if video is None:
        raise MediaError(_why_no_video(path, report.streams))
    if _has_no_frame_times(report.container, video):
        raise MediaError(
            f"is an AVI with {video['codec_name']} whose frames are stored out of order, and AVI does "
            "not hold their times; convert it to MP4 or MKV"
        )
    frames = read_frame_times(path, listing, video)
    stream = _video_stream(video, frames)
    return MediaProbe(
        container=report.container,
        duration_s=report.duration_s or stream.duration_s,
        video=stream,
        audio=first_sound(report),
        loudness_lufs=None,
        notes=(*_notes(video, stream, frames), *_track_notes(report.streams)),
    )


def _is_picture(stream: Fields) -> bool:
    return stream.get("codec_type") == "video" and stream.get("disposition:attached_pic") != "1"


def _has_no_frame_times(container: str, stream: Fields) -> bool:
    """Reordered H.264 and HEVC in AVI: libavformat's guess at their times is not the decoder's."""
    reordered = int(stream.get("has_b_frames", "0")) > 0
    return container == "avi" and stream.get("codec_name") in ("h264", "hevc") and reordered


def _why_no_video(path: Path, streams: list[Fields]) -> str:
    if not streams and (guess := seems_to_be(path)) is not None:
        return f"is not a video that can be read: it seems to be {guess}"
    if any(is_sound(s) for s in streams):
        cover = any(s.get("codec_type") == "video" for s in streams)
        return "has sound but no video stream" + (" (its only picture is a cover)" if cover else "")
    return "has no video stream"


def _video_stream(stream: Fields, frames: FrameTimes) -> VideoStream:
    stored = (int(stream.get("width", 0)), int(stream.get("height", 0)))
    if min(stored) < MIN_EDGE:
        raise MediaError(
            f"shows a picture of {stored[0]}x{stored[1]} pixels; at least {MIN_EDGE}x{MIN_EDGE} is needed"
        )
    rotation = _rotation(stream)
    ratio = _aspect_of_pixels(stream.get("sample_aspect_ratio"))
    width, height = max(1, round(stored[0] * ratio)), stored[1]
    if rotation % 180 == 90:
        width, height = height, width
    pixel_format = stream.get("pix_fmt", "unknown")
    return VideoStream(
        index=int(stream["index"]),
        codec=stream.get("codec_name", "unknown"),
        width=width,
        height=height,
        stored=stored,
        rotation=rotation,
        sample_aspect_ratio=f"{ratio.numerator}:{ratio.denominator}",
        pixel_format=pixel_format,
        bit_depth=_bit_depth(stream, pixel_format),
        colour_space=stream.get("color_space"),
        time_base=stream["time_base"],
        first_pts=frames.times[0],
        steps=tuple(
            (step, len(list(run))) for step, run in groupby(b - a for a, b in pairwise(frames.times))
        ),
        last_duration=frames.last_duration,
        late_by=frames.late_by,
    )


def _notes(stream: Fields, video: VideoStream, frames: FrameTimes) -> Iterator[str]:
    if frames.cut_short:
        of = "" if frames.declared is None else f" of {frames.declared}"
        yield f"the file ends early: {len(frames.times)}{of} frames are readable"
    if (curve := HDR_TRANSFERS.get(stream.get("color_transfer", ""))) is not None:
        yield f"is HDR ({curve}, {video.bit_depth} bits): its colours are read as if they were SDR"
    elif video.bit_depth > 8:
        yield f"has {video.bit_depth} bits a colour: it is read with 8"
    if video.sample_aspect_ratio != "1:1":
        yield f"its pixels are not square ({video.sample_aspect_ratio}): shown {video.width}x{video.height}"
    if SEEN_THROUGH.match(video.pixel_format):
        yield "has transparent parts, perhaps: its colours are read as if nothing of it were"
    if stream.get("field_order") in ("tt", "bb", "tb", "bt"):
        yield "is interlaced: its fields are kept as they are stored"


def _track_notes(streams: list[Fields]) -> Iterator[str]:
    tracks = {"video": sum(map(_is_picture, streams)), "sound": sum(map(is_sound, streams))}
    for kind, count in tracks.items():
        if count > 1:
            yield f"has {count} {kind} tracks: the first is used"


def _sound_notes(found: MediaProbe, silence_share: float) -> Iterator[str]:
    offset_s = found.audio_offset_s or 0.0
    if abs(offset_s) > NOTED_OFFSET_S:
        side = "after" if offset_s > 0 else "before"
        yield f"its sound begins {abs(offset_s):.2f} s {side} its first frame"
    if silence_share > NOTED_SILENCE:
        yield f"{100 * silence_share:.0f} % of its sound is silence"


def _rotation(stream: Fields) -> int:
    # The side data counts counter-clockwise, the older tag clockwise. Newer releases of ffprobe put the
    # kind of the side data in front of the field's name.
    for name, value in stream.items():
        if name == "rotation" or name.endswith(":rotation"):
            return -round(float(value)) % 360
    # A tag holds whatever somebody has written into it.
    return round(seconds(stream.get("tag:rotate")) or 0.0) % 360


def _aspect_of_pixels(text: str | None) -> Fraction:
    numerator, _, denominator = (text or "1:1").partition(":")
    if not (numerator.isdigit() and denominator.isdigit()) or int(numerator) == 0 or int(denominator) == 0:
        return Fraction(1)
    return Fraction(int(numerator), int(denominator))


def _bit_depth(stream: Fields, pixel_format: str) -> int:
    declared = stream.get("bits_per_raw_sample", "")
    if declared.isdigit() and int(declared) > 0:
        return int(declared)
    deep = re.search(r"(9|10|12|14|16)(le|be)$", pixel_format)
    return int(deep.group(1)) if deep else 8
