"""Pictures and sound of a file on one clock: the container's."""

from __future__ import annotations

from typing import Any

_REBASED = {"mpegts", "mpeg", "ogg"}
"""Containers whose clock ffmpeg moves, in spite of `-copyts`, where a file begins at exactly 0 and the track
that begins there is not decoded. An offset of its own keeps it from that."""
_NO_TICK_S = "0.000001"
"""Far less than half a tick of these containers, so no time changes."""


def keep_clock(container: str) -> dict[str, Any]:
    """Options of an ffmpeg input whose times are to be those that ffprobe lists.

    Args:
        container: the name that ffprobe gives it.
    """
    moved = not _REBASED.isdisjoint(container.split(","))
    return {"copyts": None, **({"itsoffset": _NO_TICK_S} if moved else {})}
