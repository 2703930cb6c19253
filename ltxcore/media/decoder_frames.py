"""The frames that a decoder gives of a stream, and which of them are damaged.

Packets promise frames that no decoder gives: leading pictures of an open group whose reference was cut
away, a stream that begins in the middle of a group, a part that was joined with another size or clock.
"""

from __future__ import annotations

import io
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from ltxcore.media.ffmpeg_process import last_words
from ltxcore.media.streams import Fields, read_fields

KNOWS_LEADING = ("hevc", "vvc", "mpeg2video", "av1", "vp8", "vp9")
"""Codecs whose decoders leave out pictures that need one from before the beginning. H.264's shows them."""
ORDERED_CLOCK = ("mpegts", "mpeg")
"""Containers that are made by joining, where a clock may go anywhere at a seam."""
JUMP_BACK_S, JUMP_AHEAD_S = 0.5, 10.0
_HARMLESS = re.compile(
    r"SEI type \d+|[Ii]nvalid NAL unit|[Uu]nknown NAL|[Ss]kipping NAL|Late SEI|timecode|"
    r"mmco: unref short failure|Error reading (?:content light|mastering)|ICC profile|closed captions?"
)
"""Complaints of what lies beside the pictures."""
_MESSAGE = re.compile(rb"message=([^\n]*)")


class DecodedFrame(NamedTuple):
    """A frame as the decoder gave it."""

    time: int
    """In ticks of the stream."""
    duration: int
    key: bool
    interlaced: bool
    size: tuple[int, int]
    complaints: tuple[str, ...]
    """What was said of pictures while the decoder gave this one."""


class Stretch(NamedTuple):
    """The part of a stream that can be used: of one clock and one size."""

    times: list[int]
    durations: dict[int, int]
    damaged: tuple[tuple[int, int], ...]
    """Runs (first, count) of frames inside that are damaged."""
    said: str
    size: tuple[int, int]
    interlaced: bool
    notes: tuple[str, ...]
    decoded_to: int
    """The time of the last frame that was decoded, used or not."""


def read_decoded(lines: bytes, index: str) -> list[DecodedFrame]:
    """The frames in ffprobe's `compact` listing of packets, frames and logs, in the order of the decoder."""
    return [
        _frame(text) for text in _records(lines, f"frame|media_type=video|stream_index={index}|".encode())
    ]


def usable(
    decoded: Sequence[DecodedFrame],
    stream: Fields,
    container: str,
    packet_times: Sequence[int],
    first_key: int | None,
    said: bytes,
) -> Stretch | None:
    """The frames that can be used, in order of time; None where the decoder gave none that is whole.

    Args:
        decoded: as the decoder gave them.
        packet_times: of all packets that are shown, rising; some may be equal.
        first_key: the time of the first key frame of the file, if there is one.
        said: all that ffprobe complained of.
    """
    frames = list(decoded)
    if stream.get("codec_name") not in KNOWS_LEADING and first_key is not None:
        frames = [frame for frame in frames if frame.time >= first_key]
    frames, notes = _of_one_clock(frames, container, float(Fraction(stream["time_base"])))
    frames, more = _of_one_size(frames)
    frames = list({frame.time: frame for frame in reversed(frames)}.values())
    frames.sort(key=lambda frame: frame.time)
    if not frames:
        return None
    bad, words = _damage(frames, stream, packet_times, said)
    whole = [frame.time for frame in frames if frame.time not in bad]
    if not whole:
        return None
    first, last = whole[0], whole[-1]
    kept = [frame for frame in frames if first <= frame.time <= last]
    times = sorted({frame.time for frame in kept} | {time for time in bad if first < time < last})
    if missing := sum(time < first for time in packet_times):
        notes.append(f"{_frames(missing)} before its first whole one cannot be decoded: left out")
    if lost := sum(frame.time > last for frame in frames):
        notes.append(f"{_frames(lost)} at its end are damaged: left out")
    return Stretch(
        times=times,
        durations={frame.time: frame.duration for frame in kept},
        damaged=_runs([at for at, time in enumerate(times) if time in bad]),
        said=words,
        size=kept[0].size,
        interlaced=any(frame.interlaced for frame in kept),
        notes=(*notes, *more),
        decoded_to=max(frame.time for frame in decoded),
    )


def _records(lines: bytes, begin: bytes) -> Iterator[bytes]:
    """Each record with the lines of its log, which are lines of their own."""
    record = b""
    for line in io.BytesIO(lines):
        if line.startswith((b"packet|", b"frame|", b"stream|", b"program|", b"format|")):
            if record:
                yield record
            record = line if line.startswith(begin) else b""
        elif record:
            record += line
    if record:
        yield record


def _frame(record: bytes) -> DecodedFrame:
    head = record.partition(b"|log|")[0].partition(b"\n")[0]
    fields = read_fields(head)
    texts = [message.decode("utf-8", "replace").strip() for message in _MESSAGE.findall(record)]
    return DecodedFrame(
        time=int(fields.get("best_effort_timestamp", 0)),
        duration=int(fields.get("duration", fields.get("pkt_duration", 0))),
        key=fields.get("key_frame") == "1",
        interlaced=fields.get("interlaced_frame") == "1",
        size=(int(fields.get("width", 0)), int(fields.get("height", 0))),
        complaints=tuple(text for text in texts if _HARMLESS.search(text) is None),
    )


def _of_one_clock(
    frames: list[DecodedFrame], container: str, tick_s: float
) -> tuple[list[DecodedFrame], list[str]]:
    """The frames before the clock starts anew."""
    joined = not set(ORDERED_CLOCK).isdisjoint(container.split(","))
    for at, (before, after) in enumerate(pairwise(frames), 1):
        step_s = (after.time - before.time) * tick_s
        if step_s < -JUMP_BACK_S or (joined and step_s > JUMP_AHEAD_S):
            note = f"its clock jumps by {step_s:+.2f} s after {at} frames: those before are used"
            return frames[:at], [note]
    return frames, []


def _of_one_size(frames: list[DecodedFrame]) -> tuple[list[DecodedFrame], list[str]]:
    """The longest run of pictures of one size."""
    seams = [at for at, (before, after) in enumerate(pairwise(frames), 1) if before.size != after.size]
    if not seams:
        return frames, []
    runs = [frames[first:last] for first, last in pairwise([0, *seams, len(frames)])]
    longest = max(runs, key=len)
    width, height = longest[0].size
    return longest, [
        f"its pictures change their size: the {len(longest)} frames of {width}x{height} are used"
    ]


def _damage(
    frames: list[DecodedFrame], stream: Fields, packet_times: Sequence[int], said: bytes
) -> tuple[set[int], str]:
    """Times of frames that are not as they were recorded, and what the decoder said.

    A fault lasts until the next key frame. A decoder that holds frames back complains while it gives an
    earlier one, so the key frame must be later than what it holds.
    """
    held = int(stream.get("has_b_frames", "0"))
    words = [text for frame in frames for text in frame.complaints]
    context = f"[{stream.get('codec_name', '')} @"
    heard = [line for line in said.decode("utf-8", "replace").splitlines() if line.startswith(context)]
    if not words and all(_HARMLESS.search(line) for line in heard):
        return set(), ""
    times = [frame.time for frame in frames]
    keys = [at for at, frame in enumerate(frames) if frame.key]
    faults = [(at, held) for at, frame in enumerate(frames) if frame.complaints]
    begins_late = packet_times[0] < times[0] if packet_times else False
    given = set(times)
    lost = [time for time in packet_times if times[0] < time < times[-1] and time not in given]
    faults += [(bisect_left(times, time), 0) for time in lost]
    if not faults and not begins_late:
        # Said before the decoder gave its first frame.
        faults = [(0, held)]
    bad: set[int] = set(lost)
    for at, later in faults:
        end = next((key for key in keys if key > at + later), len(times))
        bad.update(times[at:end])
    return bad, _last(words or heard) if bad else ""


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"


def _last(words: list[str]) -> str:
    return last_words("\n".join(words), Path())


def _runs(indices: Iterable[int]) -> tuple[tuple[int, int], ...]:
    runs: list[tuple[int, int]] = []
    for index in indices:
        if runs and index == sum(runs[-1]):
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((index, 1))
    return tuple(runs)
