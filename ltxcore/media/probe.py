"""Probes a media file: its streams, the exact time of every frame that decodes, and its loudness."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import accumulate, groupby, pairwise
from pathlib import Path
from typing import Any

from ltxcore.config.base import Strict
from ltxcore.media.avi import is_numbered
from ltxcore.media.channel_layout import stereo_weights
from ltxcore.media.colour import Colours, read_colours
from ltxcore.media.errors import MediaError, Undecided
from ltxcore.media.ffmpeg_process import most_pixels_of
from ltxcore.media.heard_tracks import Heard, heard_instead
from ltxcore.media.interlacing import FieldOrder, find_field_order
from ltxcore.media.packets import FrameTimes, read_frame_times
from ltxcore.media.perceptual_hash import Pictures, hash_of_clip
from ltxcore.media.sniff import seems_to_be
from ltxcore.media.sound_and_hash import measure
from ltxcore.media.streams import (
    AudioStream,
    Fields,
    Listing,
    check_file,
    ffprobe_frames,
    ffprobe_packets,
    is_sound,
    seconds,
)
from ltxcore.media.tracks import choose_pictures, choose_sounds, is_picture
from ltxcore.media.transparency import is_seen_through, may_be_seen_through
from ltxcore.media.wanted import Wanted

MIN_EDGE = 16
NOTED_OFFSET_S = 0.04
NOTED_SILENCE = 0.9
NEAR_MEDIAN, MOST = 0.25, 0.75
"""What is near the median distance of frames, as a share of it, and how many have to be."""
TOO_MANY_PIXELS = r"^\[%s @.*Picture size (\d+)x(\d+) exceeds specified max pixel count"


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
    colours: Colours = Colours()
    time_base: str
    """Seconds of a tick, as a fraction."""
    first_pts: int
    steps: tuple[tuple[int, int], ...]
    """Ticks from each frame to the next in presentation order, as runs of (ticks, how often)."""
    last_duration: int
    """Ticks for which the last frame is shown."""
    late_by: int = 0
    """Ticks by which the first frame is shown later than its timestamp says (`packets.FrameTimes`)."""
    moved: tuple[tuple[int, int], ...] = ()
    """Ticks by which frames are shown later than timestamp and `late_by` say, as runs of (ticks, how often);
    empty where none is: of files with several edits alone."""
    numbered: bool = False
    """Whether timestamps are the numbers of frames, in the order in which the decoder gives them (`avi`)."""
    damaged: tuple[tuple[int, int], ...] = ()
    """Frames that do not decode as they were recorded, as runs (first, how many)."""
    damage: str = ""
    """What the decoder said of them."""
    interlaced: bool = False
    """Whether its frames say that they are made of two fields."""
    field_order: FieldOrder | None = None
    """Of frames that do not say it and are made of two fields nevertheless: which of them is the earlier."""
    seen_through: bool = False
    """Whether parts of it are transparent."""

    @property
    def most_pixels(self) -> int:
        """The limit under which its pictures are decoded."""
        return most_pixels_of(*self.stored)

    @property
    def tick_s(self) -> Fraction:
        """Seconds of one unit of the stream's clock."""
        return Fraction(self.time_base)

    @property
    def start_s(self) -> float:
        """When the first frame is shown, on the clock of the file's sound."""
        return float((self.first_pts + self.late_by) * self.tick_s)

    @property
    def frame_count(self) -> int:
        """How many frames the stream has."""
        return 1 + sum(count for _, count in self.steps)

    def timestamps(self) -> list[int]:
        """Presentation time of every frame in ticks, strictly increasing; frame i of a plan is entry i."""
        times = [self.first_pts]
        for step, count in self.steps:
            before = times[-1]
            times.extend(before + step * n for n in range(1, count + 1))
        return times

    def shown_from_first(self) -> list[int]:
        """When every frame is shown, in ticks from the first one."""
        moved = [ticks for ticks, count in self.moved for _ in range(count)] or [0] * self.frame_count
        return [time - self.first_pts + later for time, later in zip(self.timestamps(), moved, strict=True)]

    @property
    def duration_ticks(self) -> int:
        """From the first frame's appearance to the last one's end."""
        moved = self.moved[-1][0] if self.moved else 0
        return sum(step * count for step, count in self.steps) + moved + self.last_duration

    @property
    def duration_s(self) -> float:
        """From the first frame's appearance to the last one's end."""
        return float(self.duration_ticks * self.tick_s)

    @property
    def fps(self) -> float:
        """Mean frame rate."""
        return self.frame_count / self.duration_s

    @property
    def usual_fps(self) -> float:
        """Frame rate without gaps and doubled times: the mean over frames that follow at about the median.

        Containers that count in milliseconds say 41 and 42 of 24 fps, so that the median alone is none. Where
        the frames have no usual distance, the mean of all.
        """
        runs = list(self.steps)
        if self.moved:
            steps = (after - before for before, after in pairwise(self.shown_from_first()))
            runs = [(step, len(list(run))) for step, run in groupby(steps)]
        total = sum(count for _, count in runs)
        ends = accumulate(count for _, count in sorted(runs))
        usual = next((run[0] for run, end in zip(sorted(runs), ends, strict=True) if 2 * end >= total), 0)
        near = [(step, count) for step, count in runs if abs(step - usual) <= NEAR_MEDIAN * usual]
        counted, ticks = sum(count for _, count in near), sum(step * count for step, count in near)
        return float(counted / (ticks * self.tick_s)) if ticks and counted >= MOST * total else self.fps


class MediaProbe(Strict):
    """Everything about a file that later stages need without opening it again."""

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
    """Near duplicates have nearly equal ones (`perceptual_hash.hash_of_clip`)."""
    notes: tuple[str, ...]

    @property
    def audio_offset_s(self) -> float | None:
        """How much later than the first frame the sound begins; None without sound."""
        if self.audio is None:
            return None
        return self.audio.start_s - self.video.start_s


def probe(path: Path, wanted: Wanted = Wanted()) -> MediaProbe:  # noqa: B008 - it is frozen
    """Read the streams of a file, the times of its frames, its loudness and its perceptual hash.

    Raises:
        MediaError: it cannot be used as a clip; the reason says what it is instead or what is missing.
    """
    listing = _listed(path, wanted, decoded=True)
    found = _read(path, listing, wanted, decoded=True)
    seen: dict[str, Any] = {}
    place = _pictures(found.video)
    try:
        if found.audio is not None:
            stereo_weights(found.audio.layout, found.audio.channels)
        look, loudness = measure(path, place, found.audio)
        if found.audio is not None and loudness is not None:
            heard = heard_instead(path, listing.report, wanted.audio_track, found.audio, loudness)
            if heard is not None:
                found, loudness = _with_sound(found, heard), heard.loudness
    except Undecided:
        raise
    except MediaError as fault:
        look, loudness = hash_of_clip(path, place), None
        seen["sound_fault"] = str(fault)
    seen["look"] = look
    if not found.video.interlaced and found.video.frame_count > 1:
        order = find_field_order(path, place)
        seen["video"] = found.video.model_copy(update={"field_order": order})
    if loudness is not None:
        seen["loudness_lufs"], seen["silence_share"] = loudness.lufs, loudness.silence_share
        seen["notes"] = (*found.notes, *_sound_notes(found, loudness.silence_share))
    return found.model_copy(update=seen)


def _pictures(video: VideoStream) -> Pictures:
    return Pictures(video.index, video.duration_s, video.most_pixels, video.stored)


def _with_sound(found: MediaProbe, heard: Heard) -> MediaProbe:
    notes = tuple(note for note in found.notes if "sound tracks" not in note)
    return found.model_copy(update={"audio": heard.stream, "notes": (*notes, heard.note)})


def read_streams(
    path: Path,
    decoded: bool = True,
    track: int | None = None,
    wanted: Wanted = Wanted(),  # noqa: B008
) -> MediaProbe:
    """`probe` without the loudness and the perceptual hash.

    Args:
        decoded: whether the frames are those that the decoder gives; otherwise those of the packets, of
            which some may not decode.
        track: the place in the file of the picture track; without it the one that a player plays.

    Raises:
        MediaError: as `probe`.
    """
    return _read(path, _listed(path, wanted, decoded), wanted, decoded, track)


def read_headers(path: Path, wanted: Wanted) -> MediaProbe:
    """`read_streams` of the packets alone, which costs a fraction of decoding.

    Raises:
        MediaError: as `probe`.
    """
    return read_streams(path, decoded=False, wanted=wanted)


def _listed(path: Path, wanted: Wanted, decoded: bool) -> Listing:
    check_file(path)
    return (ffprobe_frames if decoded else ffprobe_packets)(path, wanted.most_pixels)


def _read(
    path: Path, listing: Listing, wanted: Wanted, decoded: bool, track: int | None = None
) -> MediaProbe:
    report = listing.report
    video, video_notes = choose_pictures(listing, wanted.video_track)
    if track is not None:
        video = next((s for s in report.streams if is_picture(s) and s["index"] == str(track)), None)
    if video is None:
        raise MediaError(_why_no_video(path, report.streams))
    wanted.check_size(int(video.get("width", 0)), int(video.get("height", 0)))
    sounds = choose_sounds(report, wanted.audio_track)
    try:
        frames = read_frame_times(path, listing, video)
    except MediaError:
        _check_refused(listing, video, wanted)
        raise
    stream = _video_stream(video, frames)
    if is_numbered(report.container, video):
        stream = stream.model_copy(update={"numbered": True})
    if decoded and may_be_seen_through(video):
        stream = stream.model_copy(update={"seen_through": is_seen_through(path, video, stream.most_pixels)})
    return MediaProbe(
        container=report.container,
        duration_s=report.duration_s or stream.duration_s,
        video=stream,
        audio=sounds.first,
        loudness_lufs=None,
        notes=(*_notes(video, stream, frames), *video_notes, *sounds.notes),
    )


def _check_refused(listing: Listing, video: Fields, wanted: Wanted) -> None:
    """Of pictures that do not decode, and whose size only the decoder saw, which refused it.

    Raises:
        MediaError: they have more pixels than the dataset takes.
    """
    pattern = TOO_MANY_PIXELS % re.escape(video.get("codec_name", ""))
    refused = re.search(pattern, listing.said.decode("utf-8", "replace"), re.MULTILINE)
    if refused is not None:
        wanted.check_size(int(refused[1]), int(refused[2]))


def _why_no_video(path: Path, streams: list[Fields]) -> str:
    if not streams and (guess := seems_to_be(path)) is not None:
        return f"is not a video that can be read: it seems to be {guess}"
    if any(is_sound(s) for s in streams):
        cover = any(s.get("codec_type") == "video" for s in streams)
        return "has sound but no video stream" + (" (its only picture is a cover)" if cover else "")
    return "has no video stream"


def _video_stream(stream: Fields, frames: FrameTimes) -> VideoStream:
    stretch = frames.stretch
    stored = (int(stream.get("width", 0)), int(stream.get("height", 0))) if stretch is None else stretch.size
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
        colours=read_colours(stream),
        time_base=stream["time_base"],
        first_pts=frames.times[0],
        steps=tuple(
            (step, len(list(run))) for step, run in groupby(b - a for a, b in pairwise(frames.times))
        ),
        last_duration=frames.last_duration,
        late_by=frames.late_by,
        moved=tuple((ticks, len(list(run))) for ticks, run in groupby(frames.moved)),
        damaged=() if stretch is None else stretch.damaged,
        damage="" if stretch is None else stretch.said,
        interlaced=stretch is not None and stretch.interlaced,
    )


def _notes(stream: Fields, video: VideoStream, frames: FrameTimes) -> Iterator[str]:
    if frames.cut_short:
        of = "" if frames.declared is None else f" of {frames.declared}"
        yield f"the file ends early: {len(frames.times)}{of} frames are readable"
    if frames.stretch is not None:
        yield from frames.stretch.notes
    if video.damaged:
        yield f"{sum(count for _, count in video.damaged)} of its frames are damaged"
    if video.bit_depth > 8 and video.colours.hdr is None:
        yield f"has {video.bit_depth} bits a colour: it is read with 8"
    if (gamut := video.colours.wide) is not None:
        yield f"has the colours of {gamut}: they are converted to BT.709"
    if video.sample_aspect_ratio != "1:1":
        yield f"its pixels are not square ({video.sample_aspect_ratio}): shown {video.width}x{video.height}"


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
