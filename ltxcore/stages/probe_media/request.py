"""What the result of probe-media depends on."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path
from typing import Any

from ltxcore.media.caption_names import find_caption
from ltxcore.media.errors import MediaError
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.stamp import Stamp
from ltxcore.stages.probe_media.files_not_taken import files_not_taken
from ltxcore.stages.probe_media.media_files import MediaFile, find_files, readable_identity
from ltxcore.store.fingerprint import fingerprint

UNDECIDED = "undecided"
"""Of an outcome: how many files there were of which nothing was learnt."""


def request(ctx: Context) -> dict[str, Any]:
    """The configuration, and what `stat` says of every file: so an unchanged dataset costs stats only."""
    files = find_files(ctx)
    listing = {file.id: _listed_with_caption(file) for file in files}
    listing |= {file.id: [] for file in files_not_taken(ctx, files)}
    media = ctx.datasets.media
    listing |= {d.parquet.path: [_listed(Path(d.parquet.path))] for d in media if d.parquet is not None}
    return {
        "datasets": [d.fingerprint_data() for d in ctx.datasets.files],
        "roots": {d.id: str(ctx.datasets.directory(d)) for d in ctx.datasets.files},
        "files": fingerprint(listing),
    }


def _listed_with_caption(file: MediaFile) -> list[Any]:
    """Of a file and of its caption."""
    try:
        caption = find_caption(file.path)
    except MediaError as several:
        return [_listed(file.path), str(several)]
    return [_listed(file.path), *([caption.path.name, _listed(caption.path)] if caption else [])]


def _listed(path: Path) -> tuple[int, ...] | None:
    identity = readable_identity(path)
    return None if identity is None else astuple(identity)


def present(ctx: Context, stamp: Stamp) -> bool:
    """Not where a file could not be judged: it is tried again."""
    if stamp.outcome.counts.get(UNDECIDED):
        return False
    return (ctx.workspace.snapshots / f"{stamp.outcome.facts['snapshot']}.json").exists()


def needs(ctx: Context) -> dict[str, list[str]]:
    """Nothing of the store: what is remembered of files is only a memo."""
    return {}
