"""When each frame is shown: from the packets of a stream, and from what its decoder gives of them."""

from __future__ import annotations

import io
import re
import statistics
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from ltxcore.media.avi import guessed_later, is_numbered, numbered_stretch
from ltxcore.media.decoder_frames import Stretch, read_decoded, usable
from ltxcore.media.edit_list import read_edits, shown_times
from ltxcore.media.errors import MediaError
from ltxcore.media.ffmpeg_process import ffprobe, last_words
from ltxcore.media.streams import Fields, Listing, read_fields

CUT_SHORT = re.compile(r"partial file|ended prematurely|[Tt]runcat")


class FrameTimes(NamedTuple):
    """When the frames of a stream are shown, in ticks of its time base."""

    times: list[int]
    last_duration: int
    declared: int | None
    cut_short: bool
    late_by: int = 0
    """Ticks by which the first of them is shown later than `times` says."""
    moved: tuple[int, ...] = ()
    """Of each: ticks by which it is shown later than `times` and `late_by` say; empty where none is."""
    stretch: Stretch | None = None
    """What the decoder gave; None where it was not asked."""


class _Packet(NamedTuple):
    pts: int
    dts: int | None
    duration: int
    shown: bool
    key: bool


HEAD_MARGIN = 32
"""Frames at the end of a decoded beginning that may lack later ones of which they are made."""


def read_frame_times(path: Path, listing: Listing, stream: Fields) -> FrameTimes:
    """Times of all frames that are shown, in presentation order: those that the decoder gives, if asked.

    Where the file ends early, frames are kept only up to the last decoding time read: what would be
    decoded later may have to be shown between the frames after it.

    Raises:
        MediaError: there is no frame that is whole.
    """
    if listing.status != 0:
        raise MediaError(f"its frames cannot be listed; ffprobe says: {last_words(listing.said, path)}")
    cut_short = _is_cut_short(listing, stream)
    packets = list(_packets(listing.packets, stream["index"]))
    if cut_short:
        packets = _whole_packets(packets)
    times = sorted({packet.pts for packet in packets if packet.shown})
    if not times:
        raise MediaError("has a header but no frame that can be read")
    durations = {packet.pts: packet.duration for packet in packets}
    declared = int(stream["nb_frames"]) if stream.get("nb_frames", "").isdigit() else None
    if is_numbered(listing.report.container, stream):
        return _numbered(listing, stream, packets, declared, cut_short)
    later = _later(path, listing, stream, packets, times) if not cut_short else {}
    stretch = _stretch(listing, stream, packets) if listing.decoded else None
    if stretch is not None:
        goes_on = listing.is_head and stretch.times[-1] == stretch.decoded_to
        rest = [time for time in times if time > stretch.decoded_to] if goes_on else []
        times = [*(time for time in stretch.times if time <= times[-1]), *rest]
        durations |= {time: length for time, length in stretch.durations.items() if length > 0}
    late_by, moved = _moved(times, later)
    return FrameTimes(times, _last_duration(times, durations), declared, cut_short, late_by, moved, stretch)


def _numbered(
    listing: Listing, stream: Fields, packets: list[_Packet], declared: int | None, cut_short: bool
) -> FrameTimes:
    """Of frames that are found by their number.

    Raises:
        MediaError: some do not decode.
    """
    decoded = read_decoded(listing.decoded, stream["index"])
    codec = stream["codec_name"]
    stretch = numbered_stretch(decoded, len(packets), codec, listing.is_head) if listing.decoded else None
    places = [packet.dts if packet.dts is not None else number for number, packet in enumerate(packets)]
    late_by, moved = _moved(range(len(places)), {at: place - at for at, place in enumerate(places)})
    return FrameTimes([*range(len(places))], 1, declared, cut_short, late_by, moved, stretch)


def _is_cut_short(listing: Listing, stream: Fields) -> bool:
    """Whether the container ends early; decoders speak of truncated things, too, that are none of it."""
    lines = listing.said.decode("utf-8", "replace").splitlines()
    decoders = tuple(f"[{s['codec_name']} @" for s in listing.report.streams if "codec_name" in s)
    return any(CUT_SHORT.search(line) and not line.startswith(decoders) for line in lines)


def _stretch(listing: Listing, stream: Fields, packets: list[_Packet]) -> Stretch:
    """What can be used of a stream.

    Raises:
        MediaError: nothing of it decodes.
    """
    decoded = read_decoded(listing.decoded, stream["index"])
    if listing.is_head:
        decoded = decoded[:-HEAD_MARGIN] if len(decoded) > HEAD_MARGIN else decoded
    keys = [packet.pts for packet in packets if packet.key]
    shown = sorted(packet.pts for packet in packets if packet.shown)
    found = usable(decoded, stream, listing.report.container, shown, keys[0] if keys else None, listing.said)
    if found is None:
        words = last_words(listing.said, Path())
        raise MediaError(f"none of its {len(shown)} frames can be decoded whole; ffmpeg says: {words}")
    return found


def _later(
    path: Path, listing: Listing, stream: Fields, packets: list[_Packet], times: list[int]
) -> dict[int, int]:
    """Ticks by which frames are shown later than libavformat says, by their times: in AVI, and in edited MP4.

    Raises:
        MediaError: its edits leave a gap.
    """
    if guessed_later(listing.report.container, stream):
        first = packets[0]
        return {} if first.dts is None else dict.fromkeys(times, first.dts - first.pts)
    if "mov" not in listing.report.container:
        return {}
    index = stream["index"]
    edits = read_edits(path, int(index))
    if sum(edit.begin is not None for edit in edits) > 1:
        entries = ("-show_entries", "packet=stream_index,pts,dts,duration,flags", "-of", "compact")
        _, out, _ = ffprobe(path, "-ignore_editlist", "1", "-select_streams", index, *entries)
        shown = shown_times(edits, sorted(packet.pts for packet in _packets(out, index)))
        known = len(shown) == len(times)
        return {time: true - time for time, true in zip(times, shown, strict=True)} if known else {}
    if all(packet.shown for packet in packets):
        return {}
    late_by = _late_by(path, index, times)
    return dict.fromkeys(times, late_by)


def _moved(times: Sequence[int], later: dict[int, int]) -> tuple[int, tuple[int, ...]]:
    """Of the frames that are used: how much later the first is shown, and each compared with it."""
    late_by = later.get(times[0], 0)
    moved, last = [], late_by
    for time in times:
        last = later.get(time, last)
        moved.append(last - late_by)
    return late_by, tuple(moved) if any(moved) else ()


def _late_by(path: Path, index: str, times: list[int]) -> int:
    """What libavformat rounds away of an edit list that begins between two frames.

    It lets the first whole frame begin where the edit does, up to a frame too early, while the sound is cut
    to the sample. Read without its own edits the same packets have their true times.
    """
    entries = ("-show_entries", "packet=stream_index,pts,dts,duration,flags", "-of", "compact")
    _, out, _ = ffprobe(path, "-advanced_editlist", "0", "-select_streams", index, *entries)
    plain = sorted({packet.pts for packet in _packets(out, index) if packet.pts >= times[0]})
    late_by = plain[0] - times[0] if plain else 0
    longest = max((after - before for before, after in pairwise(times)), default=0)
    known = late_by < longest and plain[: len(times)] == [time + late_by for time in times]
    return late_by if known else 0


def _packets(lines: bytes, index: str) -> Iterator[_Packet]:
    of_the_stream = f"packet|stream_index={index}|".encode()
    for line in io.BytesIO(lines):
        if not line.startswith(of_the_stream):
            continue
        fields = read_fields(line)
        pts, dts = _ticks(fields.get("pts")), _ticks(fields.get("dts"))
        shown_at = pts if pts is not None else dts
        flags = fields.get("flags", "")
        if shown_at is None:
            continue
        yield _Packet(shown_at, dts, _ticks(fields.get("duration")) or 0, "D" not in flags, "K" in flags)


def _whole_packets(packets: list[_Packet]) -> list[_Packet]:
    kept = packets[:-1]  # The last one read is the one that the end of the file cuts.
    decoded_to = [packet.dts for packet in kept if packet.dts is not None]
    return [p for p in kept if p.pts <= decoded_to[-1]] if decoded_to else kept


def _last_duration(times: list[int], durations: dict[int, int]) -> int:
    if durations[times[-1]] > 0:
        return durations[times[-1]]
    gaps = [after - before for before, after in pairwise(times)]
    return round(statistics.median(gaps)) if gaps else 1


def _ticks(text: str | None) -> int | None:
    return int(text) if text and text.lstrip("-").isdigit() else None
