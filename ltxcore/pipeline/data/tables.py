"""Tables about the data, as plain rows: for artifacts, files and the terminal alike."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, Final

from ltxcore.pipeline.data.held_out import WHY
from ltxcore.pipeline.data.tokens import video_tokens
from ltxcore.store.printable import cell
from ltxcore.store.snapshot import Sample, Snapshot

Row = dict[str, Any]

COLUMNS: Final = ("clip", "verdict", "reason", "bucket", "seconds", "fps", "audio")
"""Of `dataset_rows`."""


def counted(number: int, noun: str) -> str:
    """`1 clip`, `2 clips`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def file_rate(sample: Sample, rates: Mapping[str, float]) -> float:
    """Frames a second of a sample's file: as it was measured, else the mean that the snapshot keeps."""
    return rates.get(sample.media_id, sample.source_fps) if sample.kind == "video" else sample.source_fps


def dataset_rows(
    snapshot: Snapshot,
    quarantined: dict[str, str] | None = None,
    held_out: Collection[str] = (),
    rates: Mapping[str, float] = MappingProxyType({}),
) -> list[Row]:
    """One row for each file: clip, verdict, reason, bucket, seconds, fps, audio.

    Args:
        rates: media id -> frames a second, as most frames of the file follow each other.
    """
    broken = quarantined or {}
    rows = [_sample_row(s, broken.get(s.id), s.id in held_out, file_rate(s, rates)) for s in snapshot.samples]
    rows += [
        dict.fromkeys(COLUMNS, "") | {"clip": rejection.id, "verdict": "rejected", "reason": rejection.reason}
        for rejection in snapshot.rejections
    ]
    return sorted(rows, key=lambda row: str(row["clip"]))


def _sample_row(sample: Sample, error: str | None, held_out: bool, fps: float) -> Row:
    taken = "held out" if held_out else "taken"
    return {
        "clip": sample.id,
        "verdict": taken if error is None else "quarantined",
        "reason": error or "; ".join([WHY, *sample.notes] if held_out else sample.notes),
        "bucket": sample.bucket,
        "seconds": round(sample.source_duration_s, 2),
        "fps": round(fps, 3),
        "audio": sample.audio.layout if sample.audio else "none",
    }


def bucket_rows(snapshot: Snapshot) -> list[Row]:
    """One row for each bucket."""
    return [
        {
            "bucket": bucket,
            "clips": len(samples),
            "with sound": sum(s.audio is not None for s in samples),
            "video tokens": video_tokens(samples[0]),
            "visits an epoch": sum(s.visits for s in samples),
        }
        for bucket, samples in snapshot.buckets().items()
    ]


def as_csv(rows: list[Row]) -> bytes:
    """`dataset_rows`, however few, as a table that a spreadsheet may open.

    A stranger's text in it is neither formula nor control character.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue().encode()
