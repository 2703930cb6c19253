"""Which of a file's tracks are used: those that a player would play."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from ltxcore.media.errors import MediaError
from ltxcore.media.ffmpeg_process import run_tool
from ltxcore.media.streams import AudioStream, Fields, Listing, Report, is_sound, sound_stream

CODECS_TIMEOUT_S = 60.0
SAME_LENGTH_S = 0.1
_DECODED = re.compile(rb"^ D\S{5} (\S+)", re.MULTILINE)


class Sounds(NamedTuple):
    """The sound of a file."""

    candidates: tuple[AudioStream, ...]
    """The one that a player plays first, then what may take its place where that is silent."""
    notes: tuple[str, ...]

    @property
    def first(self) -> AudioStream | None:
        """The preferred track; None where the file has no sound."""
        return self.candidates[0] if self.candidates else None


def is_picture(stream: Fields) -> bool:
    """A picture track, and no cover."""
    return stream.get("codec_type") == "video" and stream.get("disposition:attached_pic") != "1"


def choose_pictures(listing: Listing, track: int | None = None) -> tuple[Fields | None, tuple[str, ...]]:
    """The picture track that is used, with a note where there are others.

    One that can be decoded comes before one that cannot, a film before a still, the default before others,
    then the largest picture, then the first.

    Args:
        track: the number of the one that the dataset asks for, from 1 on.

    Raises:
        MediaError: there is no track of that number.
    """
    found = [stream for stream in listing.report.streams if is_picture(stream)]
    if track is not None:
        return _numbered(found, track, "video"), ()
    if not found:
        return None, ()

    def rank(stream: Fields) -> tuple[bool, bool, bool, int]:
        area = int(stream.get("width", 0)) * int(stream.get("height", 0))
        return is_decoded(stream), _moves(listing, stream), _is_default(stream), area

    chosen = max(found, key=rank)
    return chosen, _notes(found, chosen, "video")


def choose_sounds(report: Report, track: int | None = None) -> Sounds:
    """The sound tracks that may be used.

    One that can be decoded comes before one that cannot, the default before others, then that of most
    channels, then the first. Two tracks of one channel and one length, and no others, are the sides of a
    stereo sound, as cameras write them.

    Args:
        track: the number of the one that the dataset asks for, from 1 on.

    Raises:
        MediaError: there is no track of that number.
    """
    found = [stream for stream in report.streams if is_sound(stream)]
    if track is not None:
        return Sounds((sound_stream(_numbered(found, track, "audio")),), ())
    if not found:
        return Sounds((), ())
    if (sides := _sides(found)) is not None:
        note = "its 2 sound tracks of one channel are joined to stereo"
        left, right = (sound_stream(side) for side in sides)
        return Sounds((_joined(left, right), left, right), (note,))

    def rank(stream: Fields) -> tuple[bool, bool, int]:
        return is_decoded(stream), _is_default(stream), int(stream.get("channels", 0))

    ordered = sorted(found, key=rank, reverse=True)
    usable = [stream for stream in ordered if is_decoded(stream)] or ordered[:1]
    return Sounds(tuple(map(sound_stream, usable)), _notes(found, ordered[0], "sound"))


def sounds_by_index(report: Report, indices: Sequence[int]) -> list[AudioStream]:
    """The sound tracks that a plan names, by their places in the file."""
    streams = {int(stream["index"]): stream for stream in report.streams if is_sound(stream)}
    return [sound_stream(streams[index]) for index in indices if index in streams]


def track_number(report: Report, index: int) -> int:
    """The number of a sound track, from 1 on."""
    return 1 + sum(is_sound(stream) and int(stream["index"]) < index for stream in report.streams)


@lru_cache(maxsize=1)
def decoded_codecs() -> frozenset[str]:
    """The codecs that this ffmpeg decodes.

    Raises:
        ToolMissing: it is not installed.
    """
    done = run_tool(["ffmpeg", "-hide_banner", "-v", "error", "-codecs"], CODECS_TIMEOUT_S)
    return frozenset(name.decode() for name in _DECODED.findall(done.stdout))


def is_decoded(stream: Fields) -> bool:
    """Whether this ffmpeg has a decoder for a track."""
    return stream.get("codec_name", "unknown") in decoded_codecs()


def _numbered(found: Sequence[Fields], track: int, kind: str) -> Fields:
    if track > len(found):
        held = {0: "none", 1: "1 track"}.get(len(found), f"{len(found)} tracks")
        raise MediaError(f"has no {kind} track {track}: it has {held}, and {kind}.track is {track}")
    return found[track - 1]


def _moves(listing: Listing, stream: Fields) -> bool:
    """Whether a track has more than one picture: a still beside a film is its thumbnail."""
    return listing.packets.count(f"packet|stream_index={stream['index']}|".encode()) > 1


def _is_default(stream: Fields) -> bool:
    return stream.get("disposition:default") == "1"


def _notes(found: Sequence[Fields], chosen: Fields, kind: str) -> tuple[str, ...]:
    if len(found) == 1:
        return ()
    number = 1 + next(at for at, stream in enumerate(found) if stream is chosen)
    which = "the first" if number == 1 else f"track {number}"
    return (f"has {len(found)} {kind} tracks: {which} is used",)


def _sides(found: Sequence[Fields]) -> tuple[Fields, Fields] | None:
    """Left and right, where a file has two tracks of one channel that belong together."""
    if len(found) != 2 or not all(map(is_decoded, found)):
        return None
    left, right = found
    alike = ("codec_name", "sample_rate", "channels", "tag:language")
    if any(left.get(name) != right.get(name) for name in alike) or left.get("channels") != "1":
        return None
    one, other = sound_stream(left), sound_stream(right)
    apart_s = abs(one.start_s - other.start_s) + abs((one.duration_s or 0.0) - (other.duration_s or 0.0))
    return (left, right) if apart_s < SAME_LENGTH_S else None


def _joined(left: AudioStream, right: AudioStream) -> AudioStream:
    return left.model_copy(update={"right": right.index, "channels": 2, "layout": "stereo"})
