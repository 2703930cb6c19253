"""Finds an audible sound track in a file whose first one is silent."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ltxcore.media.errors import MediaError, Undecided
from ltxcore.media.loudness import Loudness, measure_loudness
from ltxcore.media.streams import AudioStream, Report
from ltxcore.media.tracks import choose_sounds, track_number


class Heard(NamedTuple):
    """A sound track that takes the place of a silent one."""

    stream: AudioStream
    loudness: Loudness
    note: str


def heard_instead(
    path: Path, report: Report, track: int | None, stream: AudioStream, loudness: Loudness
) -> Heard | None:
    """The replacement for the chosen sound if it, or one side of it, is silent; None to keep it.

    Of two sides the one that is heard is used for both, otherwise the first track in the order of
    preference that is not silent.

    Args:
        track: the number of the one that the dataset asks for: it is used, silent or not.
        stream: the sound that was chosen.
        loudness: its measures.

    Raises:
        Undecided: ffmpeg took too long, or was stopped.
    """
    if loudness.lufs is not None and stream.right is None:
        return None
    first, *others = choose_sounds(report, track).candidates
    measured = [(other, _measured(path, other)) for other in others]
    heard = [(other, found) for other, found in measured if found is not None and found.lufs is not None]
    if not heard or (loudness.lufs is not None and len(heard) == len(others)):
        return None
    other, found = heard[0]
    numbers = [track_number(report, index) for index in first.tracks if index != other.index]
    silent = " and ".join(map(str, numbers))
    note = f"its sound track {silent} is silent: track {track_number(report, other.index)} is used"
    return Heard(other, found, note)


def _measured(path: Path, stream: AudioStream) -> Loudness | None:
    """None where a track does not decode, and so is none to fall back on."""
    try:
        return measure_loudness(path, stream)
    except Undecided:
        raise
    except MediaError:
        return None
