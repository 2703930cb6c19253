"""What is in a media file: its streams, the exact time of every frame, and how loud it is.

Only sound is decoded, for its loudness.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from ltxcore.config.base import Strict
from ltxcore.media.errors import MediaError
from ltxcore.media.ffmpeg_process import ffprobe, last_words, open_input, run_tool
from ltxcore.media.packets import FrameTimes, read_frame_times
from ltxcore.media.sniff import seems_to_be

LOUDNESS_TIMEOUT_S = 300.0
SILENCE_LUFS = -70.0
"""The absolute gate of EBU R128: ffmpeg reports it when nothing is louder."""
MIN_EDGE = 16
HDR_TRANSFERS = {"smpte2084": "PQ", "arib-std-b67": "HLG"}

_STREAM_FIELDS = (
    "index,codec_name,codec_type,has_b_frames,width,height,sample_aspect_ratio,pix_fmt,bits_per_raw_sample,field_order,"
    "color_transfer,color_space,time_base,nb_frames,sample_rate,channels,channel_layout,start_time,duration"
)
_STREAM_ENTRIES = (
    f"format=format_name,duration:stream={_STREAM_FIELDS}:stream_disposition=attached_pic"
    ":stream_tags=rotate,DURATION:stream_side_data=rotation"
)


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

    @property
    def tick_s(self) -> Fraction:
        return Fraction(self.time_base)

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


class AudioStream(Strict):
    """The sound track."""

    index: int
    codec: str
    rate: int
    channels: int
    layout: str
    start_s: float
    duration_s: float | None


class MediaProbe(Strict):
    """Everything that later stages may ask about a file without opening it again."""

    container: str
    duration_s: float
    video: VideoStream
    audio: AudioStream | None
    loudness_lufs: float | None
    """Integrated loudness (EBU R128); None when silent or without sound."""
    notes: tuple[str, ...]


def probe(path: Path) -> MediaProbe:
    """Read the streams of a file, the times of its frames and its loudness.

    Raises:
        MediaError: it cannot be used as a clip; the reason says what it is instead or what is missing.
    """
    found = read_streams(path)
    if found.audio is None:
        return found
    return found.model_copy(update={"loudness_lufs": measure_loudness(path, found.audio.index)})


def read_streams(path: Path) -> MediaProbe:
    """`probe` without the loudness, which is the only part that has to decode.

    Raises:
        MediaError: as `probe`.
    """
    _check_file(path)
    report = _ffprobe_streams(path)
    streams = report.get("streams", [])
    video = next((s for s in streams if _is_picture(s)), None)
    sound = next((s for s in streams if _is_sound(s)), None)
    if video is None:
        raise MediaError(_why_no_video(streams))
    if _has_no_frame_times(report["format"]["format_name"], video):
        raise MediaError(
            f"is an AVI with {video['codec_name']} whose frames are stored out of order, and AVI does "
            "not hold their times; convert it to MP4 or MKV"
        )
    frames = read_frame_times(path, video)
    stream = _video_stream(video, frames)
    return MediaProbe(
        container=report["format"]["format_name"],
        duration_s=_seconds(report["format"].get("duration")) or stream.duration_s,
        video=stream,
        audio=None if sound is None else _audio_stream(sound),
        loudness_lufs=None,
        notes=tuple(_notes(video, stream, frames)),
    )


def measure_loudness(path: Path, index: int) -> float | None:
    """Integrated loudness of one stream in LUFS after EBU R128, over the whole file; None when it is silent.

    Raises:
        MediaError: the sound cannot be decoded, or takes longer than `LOUDNESS_TIMEOUT_S`.
    """
    graph = open_input(path)[str(index)].filter("ebur128", framelog="verbose")
    command = graph.output("pipe:", format="null").compile(
        cmd=["ffmpeg", "-nostdin", "-nostats", "-v", "info"]
    )
    done = run_tool(command, LOUDNESS_TIMEOUT_S)
    values = re.findall(rb"^\s*I:\s*(-?[\d.]+|-inf|nan) LUFS", done.stderr, re.MULTILINE)
    if done.returncode != 0 or not values:
        raise MediaError(f"its sound cannot be decoded; ffmpeg says: {last_words(done.stderr, path)}")
    value = float(values[-1])
    return value if value > SILENCE_LUFS else None


def _check_file(path: Path) -> None:
    try:
        str(path).encode("utf-8")
        info = path.stat()
        if path.is_dir():
            with os.scandir(path):
                raise MediaError("is a directory, not a file")
        if not path.is_file():
            raise MediaError("is not a regular file")
        with path.open("rb") as file:
            file.read(1)
    except UnicodeEncodeError:
        raise MediaError("has a name that is not UTF-8; rename it") from None
    except FileNotFoundError:
        raise MediaError(
            "is a link to a file that is not there" if path.is_symlink() else "is not there"
        ) from None
    except OSError as error:
        raise MediaError(f"cannot be read: {error.strerror}") from error
    if info.st_size == 0:
        raise MediaError("is empty (zero bytes)")


def _ffprobe_streams(path: Path) -> dict[str, Any]:
    status, out, err = ffprobe(path, "-show_entries", _STREAM_ENTRIES, "-of", "json")
    if status == 0:
        report: dict[str, Any] = json.loads(out)
        return report
    guess = seems_to_be(path)
    if guess is not None:
        raise MediaError(f"is not a video that can be read: it seems to be {guess}")
    raise MediaError(f"is not a video that can be read; ffprobe says: {last_words(err, path)}")


def _is_picture(stream: dict[str, Any]) -> bool:
    return stream.get("codec_type") == "video" and not stream["disposition"]["attached_pic"]


def _is_sound(stream: dict[str, Any]) -> bool:
    return stream.get("codec_type") == "audio" and int(stream.get("channels", 0)) > 0


def _has_no_frame_times(container: str, stream: dict[str, Any]) -> bool:
    """Reordered H.264 and HEVC in AVI: libavformat's guess at their times is not the decoder's."""
    return container == "avi" and stream.get("codec_name") in ("h264", "hevc") and stream["has_b_frames"] > 0


def _why_no_video(streams: list[dict[str, Any]]) -> str:
    if any(_is_sound(s) for s in streams):
        cover = any(s.get("codec_type") == "video" for s in streams)
        return "has sound but no video stream" + (" (its only picture is a cover)" if cover else "")
    return "has no video stream"


def _video_stream(stream: dict[str, Any], frames: FrameTimes) -> VideoStream:
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
        index=stream["index"],
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
    )


def _audio_stream(stream: dict[str, Any]) -> AudioStream:
    return AudioStream(
        index=stream["index"],
        codec=stream.get("codec_name", "unknown"),
        rate=int(stream["sample_rate"]),
        channels=int(stream["channels"]),
        layout=stream.get("channel_layout", "unknown"),
        start_s=_seconds(stream.get("start_time")) or 0.0,
        duration_s=_seconds(stream.get("duration")) or _clock(stream.get("tags", {}).get("DURATION")),
    )


def _notes(stream: dict[str, Any], video: VideoStream, frames: FrameTimes) -> Iterator[str]:
    if frames.cut_short:
        of = "" if frames.declared is None else f" of {frames.declared}"
        yield f"the file ends early: {len(frames.times)}{of} frames are readable"
    if (curve := HDR_TRANSFERS.get(stream.get("color_transfer", ""))) is not None:
        yield f"is HDR ({curve}, {video.bit_depth} bits): its colours are read as if they were SDR"
    if stream.get("field_order") in ("tt", "bb", "tb", "bt"):
        yield "is interlaced: its fields are kept as they are stored"


def _rotation(stream: dict[str, Any]) -> int:
    # The side data counts counter-clockwise, the older tag clockwise.
    for side in stream.get("side_data_list", []):
        if "rotation" in side:
            return -round(float(side["rotation"])) % 360
    return round(float(stream.get("tags", {}).get("rotate", 0))) % 360


def _aspect_of_pixels(text: str | None) -> Fraction:
    numerator, _, denominator = (text or "1:1").partition(":")
    if not (numerator.isdigit() and denominator.isdigit()) or int(numerator) == 0 or int(denominator) == 0:
        return Fraction(1)
    return Fraction(int(numerator), int(denominator))


def _bit_depth(stream: dict[str, Any], pixel_format: str) -> int:
    declared = str(stream.get("bits_per_raw_sample", ""))
    if declared.isdigit() and int(declared) > 0:
        return int(declared)
    deep = re.search(r"(9|10|12|14|16)(le|be)$", pixel_format)
    return int(deep.group(1)) if deep else 8


def _seconds(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"-?[\d.]+", text) else None


def _clock(text: str | None) -> float | None:
    """Seconds of Matroska's `00:00:01.600000000`."""
    match = re.fullmatch(r"(\d+):(\d+):([\d.]+)", text or "")
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]) if match else None
