"""The dataset report as one static page that needs no server and no other file, and as a short text."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

from ltxcore.jobs.report.bucket_advice import advice_rows
from ltxcore.jobs.report.charts import bucket_bars, frame_bars, histogram, layout_bars, rate_bars
from ltxcore.jobs.report.dataset_report import Clip, DatasetReport
from ltxcore.pages import environment
from ltxcore.pipeline.data.tables import counted
from ltxcore.store.blobs import write_atomic

MOST_CAPTION_CHARACTERS = 600
"""Of each clip, over all its captions: a page with ten thousand clips has to stay a page."""
MOST_CHANGES = 500
MOST_BUCKETS = 60
FIGURES = ("clips", "tokens", "sound", "visits", "buckets", "waste", "cropped", "dropped", "out", "files")
"""The first or last word of columns that hold figures."""


def write_page(path: Path, report: DatasetReport) -> Path:
    """Write the page and return its path."""
    write_atomic(path, page(report).encode())
    return path


def page(report: DatasetReport) -> str:
    """The whole page."""
    taken = report.taken
    lasting = [clip for clip in taken if clip.kind != "image"]
    videos = [clip for clip in taken if clip.kind == "video"]
    tokens = [float(clip.tokens) for clip in taken if clip.tokens is not None]
    words = [float(len(text.split())) for clip in taken for text in clip.captions]
    loudness = [clip.loudness_lufs for clip in lasting if clip.loudness_lufs is not None]
    return (
        environment.html(__package__)
        .get_template("report.html")
        .render(
            title="Dataset report",
            made="" if report.made is None else f"{report.made:%Y-%m-%d %H:%M}",
            report=report,
            most_changes=MOST_CHANGES,
            most_buckets=MOST_BUCKETS,
            is_figure=_is_figure,
            advice_rows=advice_rows,
            rejections=_rejections(report),
            could_sound=bool(lasting),
            contents=len({clip.media_id for clip in taken if clip.kind != "audio"}),
            buckets=bucket_bars(report.buckets),
            layouts=layout_bars(lasting),
            loudness=histogram(loudness, "LUFS"),
            are_tokens=bool(tokens),
            caption_lengths=histogram(tokens, "tokens") if tokens else histogram(words, "words"),
            cut=sorted((clip for clip in taken if clip.cut_from), key=lambda clip: -clip.cut_from),
            lengths=histogram([clip.source_s for clip in lasting], "s", least_step=0.1),
            frames=frame_bars(videos),
            rates=rate_bars(videos),
            data=_data(report),
        )
    )


def as_markdown(report: DatasetReport) -> str:
    """The report in short, for Prefect's UI: figures, warnings, buckets, reasons and advice."""
    captions = sorted(Counter(len(clip.captions) for clip in report.taken).items())
    return (
        environment.markdown(__package__)
        .get_template("report.md")
        .render(
            report=report,
            rejections=[
                {"files": reason.count, "reason": reason.text, "such as": reason.examples[0]}
                for reason in report.reasons
            ],
            captions=", ".join(f"{number} ({counted(clips, 'clip')})" for number, clips in captions),
        )
    )


def _is_figure(column: str) -> bool:
    words = column.split()
    return words[0] in FIGURES or words[-1] in FIGURES


def _rejections(report: DatasetReport) -> list[dict[str, Any]]:
    return [
        {"files": reason.count, "reason, as of the first": reason.text, "such as": ", ".join(reason.examples)}
        for reason in report.reasons
    ]


def _data(report: DatasetReport) -> dict[str, Any]:
    """The clips and pictures for the script."""
    pictures = {media: base64.b64encode(jpeg).decode() for media, jpeg in report.thumbnails.items() if jpeg}
    return {
        "snapshot": report.snapshot.id,
        "clips": [_row(clip) for clip in report.clips],
        "thumbnails": pictures,
    }


def _row(clip: Clip) -> dict[str, Any]:
    return {
        "id": clip.id,
        "kind": clip.kind,
        "file": clip.file,
        "media": clip.media_id,
        "verdict": clip.verdict,
        "remarks": clip.remarks,
        "bucket": clip.bucket,
        "size": clip.size,
        "fps": round(clip.fps, 2),
        "seconds": round(clip.source_s, 2),
        "used": round(clip.used_s, 2),
        "captions": _shortened(clip.captions),
        "tokens": clip.tokens,
        "cut": clip.cut_from,
        "sound": clip.sound,
        "lufs": None if clip.loudness_lufs is None else round(clip.loudness_lufs, 1),
        "wave": clip.waveform,
    }


def _shortened(captions: Sequence[str]) -> list[str]:
    each = ceil(MOST_CAPTION_CHARACTERS / max(1, len(captions)))
    return [text if len(text) <= each else f"{text[:each]}…" for text in captions]
