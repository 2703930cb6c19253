"""Reordered H.264 and HEVC in AVI, which stores no frame times.

libavformat guesses them from the order of decoding, and is wrong. The n-th frame that a decoder gives is the
n-th that is shown, at the place of the n-th chunk: so these frames are found by their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ltxcore.media.decoder_frames import DecodedFrame, Stretch
from ltxcore.media.errors import MediaError
from ltxcore.media.streams import Fields

CODECS = ("h264", "hevc")


def is_numbered(container: str, stream: Fields) -> bool:
    """Whether the frames of a stream are found by their number."""
    reordered = int(stream.get("has_b_frames", "0")) > 0
    return container == "avi" and stream.get("codec_name") in CODECS and reordered


def guessed_later(container: str, stream: Fields) -> bool:
    """Whether libavformat shows pictures late, because it expects reordered ones that do not come."""
    return container == "avi" and stream.get("codec_name") in CODECS and not is_numbered(container, stream)


def numbered_input(time_base: str) -> dict[str, Any]:
    """Options of an ffmpeg input whose decoded frames are numbered from 0, in ticks of the stream."""
    scale, _, rate = time_base.partition("/")
    return {"r": f"{rate}/{scale}"}


def numbered_stretch(decoded: Sequence[DecodedFrame], packets: int, codec: str, is_head: bool) -> Stretch:
    """All decoded frames, numbered from 0.

    Args:
        packets: how many frames the file holds.
        is_head: whether only its beginning was decoded.

    Raises:
        MediaError: some frames do not decode, so the others cannot be identified.
    """
    sizes = {frame.size for frame in decoded}
    whole = not any(frame.complaints for frame in decoded) and (is_head or len(decoded) == packets)
    if not decoded or len(sizes) > 1 or not decoded[0].key or not whole:
        raise MediaError(
            f"is an AVI with {codec} whose frames are stored out of order, of which some do not decode; AVI "
            "does not hold their times, so convert it to MP4 or MKV"
        )
    return Stretch(
        times=list(range(packets)),
        durations={},
        damaged=(),
        said="",
        size=decoded[0].size,
        interlaced=any(frame.interlaced for frame in decoded),
        notes=(),
        decoded_to=packets - 1,
    )
