"""Thumbnails and waveforms of the dataset report: made once, kept by content, up to a limit."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from ltxcore.media.errors import MediaError, Undecided
from ltxcore.media.ffmpeg_process import processes_at_once
from ltxcore.media.pictures import picture_thumbnail
from ltxcore.media.thumbnail import EDGE_PX, thumbnail
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.data.content_guard import ContentGuard
from ltxcore.pipeline.data.keys import waveform_key
from ltxcore.store.blobs import read_json, write_atomic, write_json
from ltxcore.store.snapshot import FrameSelection, Sample, Snapshot
from ltxcore.store.waveforms import Waveform, WaveformStore

T = TypeVar("T")

MOST_THUMBNAILS, MOST_WAVEFORMS = 600, 2000
AT_ONCE = processes_at_once()
BARS = 48
"""Bars of a waveform's picture."""
LEVELS = "0123456789abcdefghijklmnopqrstuvwxyz"
LOUDEST_DBFS, QUIETEST_DBFS = 0.0, -48.0


class ReportPictures:
    """The pictures of one workspace, in `reports/` there."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._folder = ctx.workspace.root / "reports"

    def thumbnails(self, snapshot: Snapshot) -> dict[str, bytes]:
        """Media id -> JPEG, for at most `MOST_THUMBNAILS` contents, evenly taken from all samples.

        The snapshot is the context's. Sound alone has its waveform instead. An empty JPEG stands for a file
        that gives no picture, or that is not the content that was probed.
        """
        first: dict[str, Sample] = {}
        for sample in snapshot.samples:
            if sample.kind != "audio":
                first.setdefault(sample.media_id, sample)
        wanted = evenly(list(first.values()), MOST_THUMBNAILS)
        guard = ContentGuard(self._ctx)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = pool.map(lambda sample: self._thumbnail(guard, sample), wanted)
            return dict(zip([sample.media_id for sample in wanted], found, strict=True))

    def _thumbnail(self, guard: ContentGuard, sample: Sample) -> bytes:
        kept = self._folder / "thumbnails" / sample.media_id[:2] / f"{sample.media_id}{_track(sample)}.jpg"
        if kept.exists():
            return kept.read_bytes()
        picture = guard.read(
            sample.dataset, sample.path, sample.media_id, lambda file: _picture(file, sample)
        )
        if isinstance(picture, Undecided):
            return b""
        if isinstance(picture, MediaError):
            picture = b""
        write_atomic(kept, picture)
        return picture

    def waveforms(self, snapshot: Snapshot) -> dict[str, str]:
        """Sample id -> its sound as `BARS` levels, where split-audio has run; new ones up to a limit."""
        file = self._folder / "waveforms.json"
        known: dict[str, str] = read_json(file) if file.exists() else {}
        keys = {s.id: waveform_key(s.media_id, s.audio).value for s in snapshot.samples if s.audio}
        store = WaveformStore(self._ctx.store)
        unknown = sorted(set(keys.values()) - known.keys())
        absent = set(store.missing(unknown))
        stored = [key for key in unknown if key not in absent and store.error(key) is None]
        fresh = {key: levels(store.read(key)) for key in evenly(stored, MOST_WAVEFORMS)}
        if fresh:
            known |= fresh
            write_json(file, known)
        return {sample_id: known[key] for sample_id, key in keys.items() if key in known}


def _track(sample: Sample) -> str:
    return "" if sample.frames.track is None else f"-track-{sample.frames.track}"


def _picture(file: Path, sample: Sample) -> bytes:
    """What stands for a sample that has pictures.

    Raises:
        MediaError: it gives none.
    """
    if sample.kind == "image":
        return picture_thumbnail(file, EDGE_PX)
    return _middle(file, sample.frames)


def _middle(file: Path, frames: FrameSelection) -> bytes:
    """The frame in the middle of the part that is used: first frames are often the least typical."""
    try:
        return thumbnail(file, frames.duration_s / 2, frames.track)
    except MediaError:
        return thumbnail(file, track=frames.track)


def levels(waveform: Waveform) -> str:
    """The peaks of `BARS` equal stretches of a sound `[2, N]`, each a digit from 0 to z on a scale in dB."""
    peaks = [
        float(np.abs(part).max()) if part.size else 0.0 for part in np.array_split(waveform, BARS, axis=1)
    ]
    loud = 20 * np.log10(np.maximum(peaks, 1e-9))
    share = np.clip((loud - QUIETEST_DBFS) / (LOUDEST_DBFS - QUIETEST_DBFS), 0, 1)
    return "".join(LEVELS[round(float(s) * (len(LEVELS) - 1))] for s in share)


def evenly(items: Sequence[T], most: int) -> list[T]:
    """All items, or `most` of them at even distances."""
    if len(items) <= most:
        return list(items)
    return [items[at * len(items) // most] for at in range(most)]
