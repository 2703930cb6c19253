"""Tables about the data, as plain rows: for artifacts, files and the terminal alike."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection
from typing import Any

from ltxcore.models.versions import GEOMETRY
from ltxcore.stages.held_out import WHY
from ltxcore.store.snapshot import Sample, Snapshot

Row = dict[str, Any]


def dataset_rows(
    snapshot: Snapshot, quarantined: dict[str, str] | None = None, held_out: Collection[str] = ()
) -> list[Row]:
    """One row for each file: clip, verdict, reason, bucket, seconds, fps, audio."""
    broken = quarantined or {}
    rows = [_sample_row(s, broken.get(s.id), s.id in held_out) for s in snapshot.samples]
    rows += [
        {
            "clip": rejection.id,
            "verdict": "rejected",
            "reason": rejection.reason,
            "bucket": "",
            "seconds": "",
            "fps": "",
            "audio": "",
        }
        for rejection in snapshot.rejections
    ]
    return sorted(rows, key=lambda row: str(row["clip"]))


def _sample_row(sample: Sample, error: str | None, held_out: bool) -> Row:
    taken = "held out" if held_out else "taken"
    return {
        "clip": sample.id,
        "verdict": taken if error is None else "quarantined",
        "reason": error or "; ".join([WHY, *sample.notes] if held_out else sample.notes),
        "bucket": sample.bucket,
        "seconds": round(sample.source_duration_s, 2),
        "fps": round(sample.source_fps, 3),
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


def video_tokens(sample: Sample) -> int:
    """Tokens of a sample's video and its reference, which is what a step's time and memory grow with."""
    return GEOMETRY.video_tokens(sample.frames.count, *sample.geometry.target) + reference_tokens(sample)


def reference_tokens(sample: Sample) -> int:
    """Tokens of the video that is given beside a sample's own; 0 where there is none."""
    if sample.reference is None:
        return 0
    return GEOMETRY.video_tokens(sample.reference.frames.count, *sample.reference.geometry.target)


def as_csv(rows: list[Row]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
