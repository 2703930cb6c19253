"""Samples as the batch plan sees them, for a training and for its estimate. Imports torch only when asked."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from ltxcore.store.snapshot import Sample

if TYPE_CHECKING:
    from ltxcore.training.batch_entry import Entry


def batch_entries(samples: Iterable[Sample], held_out: Collection[str]) -> list[Entry]:
    """An entry for each sample that is not held out, in their order."""
    from ltxcore.training.batch_entry import Entry

    return [
        Entry(
            sample_id=sample.id,
            bucket=sample.bucket,
            fps=sample.frames.fps,
            has_audio=sample.audio is not None,
            has_video=sample.kind != "audio",
            captions=len(sample.captions),
            caption_weights=sample.caption_weights,
            visits=sample.visits,
            probability=sample.probability,
            regularisation=sample.regularisation,
        )
        for sample in samples
        if sample.id not in held_out
    ]
