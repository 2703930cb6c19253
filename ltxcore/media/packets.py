"""When each frame is shown, from the packets of a stream. Nothing is decoded."""

from __future__ import annotations

import io
import re
import statistics
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

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
    """Ticks by which all of them are shown later than `times` says."""


class _Packet(NamedTuple):
    pts: int
    dts: int | None
    duration: int
    shown: bool


def read_frame_times(path: Path, listing: Listing, stream: Fields) -> FrameTimes:
    """Times of all frames that are shown, in presentation order.

    Where the file ends early, frames are kept only up to the last decoding time read: what would be
    decoded later may have to be shown between the frames after it.

    Raises:
        MediaError: there is no frame that is whole.
    """
    if listing.status != 0:
        raise MediaError(f"its frames cannot be listed; ffprobe says: {last_words(listing.said, path)}")
    cut_short = CUT_SHORT.search(listing.said.decode("utf-8", "replace")) is not None
    packets = list(_packets(listing.packets, stream["index"]))
    if cut_short:
        packets = _whole_packets(packets)
    times = sorted({packet.pts for packet in packets if packet.shown})
    if not times:
        raise MediaError("has a header but no frame that can be read")
    durations = {packet.pts: packet.duration for packet in packets}
    declared = int(stream["nb_frames"]) if stream.get("nb_frames", "").isdigit() else None
    edited = "mov" in listing.report.container and not all(packet.shown for packet in packets)
    late_by = _late_by(path, stream["index"], times) if edited and not cut_short else 0
    return FrameTimes(times, _last_duration(times, durations), declared, cut_short, late_by)


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
    # Several edits are beyond what this can tell.
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
        if shown_at is None:
            continue
        yield _Packet(shown_at, dts, _ticks(fields.get("duration")) or 0, "D" not in fields.get("flags", ""))


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
