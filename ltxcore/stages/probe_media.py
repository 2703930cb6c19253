"""probe-media: every file of the datasets gets a verdict, and the good ones a decoding plan: a snapshot."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltxcore.config.base import Strict
from ltxcore.config.dataset_kinds import (
    AudioDataset,
    ConditioningDataset,
    ImageDataset,
    Media,
    VideoDataset,
)
from ltxcore.config.dataset_remarks import remarks
from ltxcore.media.captions import caption_files
from ltxcore.media.discover import IMAGES, extensions, list_files, sample_id
from ltxcore.media.errors import MediaError, Undecided, cannot_be_read
from ltxcore.media.ffmpeg_process import processes_at_once
from ltxcore.media.likeness import alike
from ltxcore.media.pictures import probe_picture
from ltxcore.media.probe import probe
from ltxcore.media.sound_files import probe_sound
from ltxcore.media.streams import check_file
from ltxcore.stages.context import Context
from ltxcore.stages.contract import PROBE
from ltxcore.stages.plan_samples import plan_files
from ltxcore.stages.stamp import Outcome, Stamp
from ltxcore.stages.strays import find_strays
from ltxcore.store.fingerprint import fingerprint, hash_file, stat_key
from ltxcore.store.index import Index
from ltxcore.store.segment import Record
from ltxcore.store.snapshot import Kind, Rejection, Sample, Snapshot

logger = logging.getLogger(__name__)

# ffprobe and the loudness pass are processes of their own; a few at once keep the disk busy.
PROBES_AT_ONCE = processes_at_once()
BATCH_FILES = 64
UNDECIDED = "undecided"
"""Of a record: nothing was learnt of the file. Of an outcome: how many such files there were."""
PROBES: dict[Kind, Callable[[Path], Strict]] = {"video": probe, "image": probe_picture, "audio": probe_sound}


@dataclass(frozen=True)
class MediaFile:
    """A file that was found in a dataset."""

    dataset: Media | ConditioningDataset
    root: Path
    path: Path

    @property
    def kind(self) -> Kind:
        """As what it is looked at: of an audio_only video dataset only the sound is wanted."""
        if isinstance(self.dataset, ConditioningDataset):
            return "image" if self.path.suffix.lower() in IMAGES else "video"
        if isinstance(self.dataset, ImageDataset):
            return "image"
        alone = isinstance(self.dataset, VideoDataset) and self.dataset.audio.audio_only
        return "audio" if alone or isinstance(self.dataset, AudioDataset) else "video"

    @property
    def id(self) -> str:
        return sample_id(self.dataset, self.root, self.path)

    @property
    def name(self) -> str:
        """The path inside the dataset, as text."""
        return self.id.removeprefix(f"{self.dataset.id}/")

    @property
    def memo_key(self) -> str:
        return fingerprint({"root": str(self.root), "name": self.name})[:40]


def request(ctx: Context) -> dict[str, Any]:
    """The configuration, and what `stat` says of every file: so an unchanged dataset costs stats only."""
    files = find_files(ctx)
    listing = {file.id: [_stat(path) for path in (file.path, *caption_files(file.path))] for file in files}
    listing |= {stray.id: [] for stray in strays(ctx, files)}
    media = ctx.datasets.media
    listing |= {d.parquet.path: [_stat(Path(d.parquet.path))] for d in media if d.parquet is not None}
    return {
        "datasets": [d.fingerprint_data() for d in ctx.datasets.files],
        "roots": {d.id: str(ctx.datasets.directory(d)) for d in ctx.datasets.files},
        "files": fingerprint(listing),
    }


def _stat(path: Path) -> list[int] | None:
    """None for a file that is not there, as it may vanish meanwhile, or that may not be read.

    A change of permissions moves neither size nor time, and must be noticed nevertheless.
    """
    try:
        return stat_key(path) if os.access(path, os.R_OK) else None
    except OSError:
        return None


def present(ctx: Context, stamp: Stamp) -> bool:
    """Not where a file could not be judged: it is tried again."""
    if stamp.outcome.counts.get(UNDECIDED):
        return False
    return (ctx.workspace.snapshots / f"{stamp.outcome.facts['snapshot']}.json").exists()


def needs(ctx: Context) -> dict[str, list[str]]:
    """Nothing of the store: what is remembered of files is only a memo."""
    return {}


def find_files(ctx: Context) -> list[MediaFile]:
    """The media files of all datasets, in a fixed order."""
    found = []
    skip = (ctx.workspace.root,)
    for dataset in ctx.datasets.files:
        root = ctx.datasets.directory(dataset)
        found += [MediaFile(dataset, root, path) for path in list_files(root, skip, extensions(dataset))]
    return found


class Memo:
    """What is known of files already: content hash by (path, size, mtime, inode), probe by content.

    Probing needs the caller to hold the writer's lock `media`.
    """

    def __init__(self, ctx: Context) -> None:
        self.files = Index(ctx.store, "media/files")
        self.probes = Index(ctx.store, "media/probes")
        self._looked_at: dict[str, tuple[str, Record]] = {}
        """What holds for this process alone."""

    @property
    def undecided(self) -> int:
        """Files that could not be judged in this process: another run tries them again."""
        return sum(UNDECIDED in record for _, record in self._looked_at.values())

    def unknown(self, files: Sequence[MediaFile]) -> list[MediaFile]:
        return [file for file in files if self.look_up(file) is None]

    def look_up(self, file: MediaFile) -> tuple[str, Record] | None:
        """Media id and probe record of a file that has not changed since it was probed."""
        if file.memo_key in self._looked_at:
            return self._looked_at[file.memo_key]
        known = self.files.get(file.memo_key)
        if known is None or known["stat"] != _stat(file.path):
            return None
        record = self.probes.get(probe_key(known["media_id"], file.kind))
        return None if record is None or record["version"] != PROBE.version else (known["media_id"], record)

    def require(self, file: MediaFile) -> tuple[str, object]:
        """Media id and probe of a file.

        Raises:
            MediaError: it could not be probed, and why.
        """
        known = self.look_up(file)
        if known is None:
            raise MediaError("changed while it was being looked at; run probe-media again")
        media_id, record = known
        if "error" in record:
            raise MediaError(record["error"])
        return media_id, record["probe"]

    def probe_batch(self, files: Sequence[MediaFile], on_file: Callable[[], None]) -> int:
        """Hash and probe a batch of files and commit what was learnt. Returns how many were probed."""
        with ThreadPoolExecutor(PROBES_AT_ONCE) as pool:
            stats = {file.memo_key: _stat(file.path) for file in files}
            learnt: dict[str, Record] = {}
            probed: dict[str, Record] = {}
            for file, (media_id, record) in zip(files, pool.map(self._learn, files), strict=True):
                on_file()
                if UNDECIDED in record:
                    logger.warning("%s: %s", file.id, record["error"])
                    self._looked_at[file.memo_key] = media_id, record
                    continue
                learnt[file.memo_key] = {
                    "name": file.name,
                    "stat": stats[file.memo_key],
                    "media_id": media_id,
                }
                probed[probe_key(media_id, file.kind)] = record
        self.probes.commit(probed)
        self.files.commit(learnt)
        return len(files)

    def look_at(self, file: MediaFile) -> None:
        """Know a file as it is now, in this process alone: nothing is committed."""
        self._looked_at[file.memo_key] = self._learn(file)

    def _learn(self, file: MediaFile) -> tuple[str, Record]:
        try:
            str(file.path).encode()
            media_id = hash_file(file.path)
        except (OSError, UnicodeEncodeError) as error:
            # Of the path, not of the content: another file of this content may be good.
            return f"unreadable-{file.memo_key}", _failed(_why(file.path, error))
        known = self.probes.get(probe_key(media_id, file.kind))
        if known is not None and known["version"] == PROBE.version:
            return media_id, known
        try:
            found = PROBES[file.kind](file.path)
        except MediaError as error:
            return media_id, _failed(error)
        return media_id, {"version": PROBE.version, "probe": found.model_dump(mode="json")}


def probe_key(media_id: str, kind: Kind) -> str:
    """Under what a probe is kept: one content may be a clip in one dataset and a sound in another."""
    return media_id if kind == "video" else f"{media_id}-{kind}"


def _failed(error: MediaError) -> Record:
    """The record of a file that gave no probe."""
    record: Record = {"version": PROBE.version, "error": str(error)}
    return {**record, UNDECIDED: True} if isinstance(error, Undecided) else record


def _why(path: Path, error: OSError | UnicodeEncodeError) -> MediaError:
    """Why a path without content cannot be used; `check_file` knows broken links and directories better.

    Raises:
        OSError: this process is out of files or memory, which is no fault of the file.
    """
    try:
        check_file(path)
    except MediaError as reason:
        return reason
    return cannot_be_read(error) if isinstance(error, OSError) else MediaError(f"cannot be read: {error}")


def make_snapshot(ctx: Context, memo: Memo, files: Sequence[MediaFile]) -> Snapshot:
    """Plan every file whose content is known. Whether there is enough to train is asked afterwards."""
    for remark in remarks(ctx.datasets):
        logger.info("%s", remark)
    samples, rejections = plan_files(ctx.datasets, memo, files)
    rejections += strays(ctx, files)
    return Snapshot(
        roots={d.id: str(ctx.datasets.directory(d)) for d in ctx.datasets.files},
        samples=tuple(_mark_alike(_mark_duplicates(samples), memo)),
        rejections=tuple(rejections),
        wants_audio=bool(ctx.datasets.audio) or any(d.wants_sound for d in ctx.datasets.video),
        fps=tuple(sorted({sample.frames.fps for sample in samples})),
    )


def strays(ctx: Context, files: Sequence[MediaFile]) -> list[Rejection]:
    """What lies in the datasets' directories and is in none of `files`, the files of all datasets."""
    return find_strays(ctx.datasets, {file.path for file in files}, (ctx.workspace.root,))


def _mark_duplicates(samples: Sequence[Sample]) -> list[Sample]:
    """Note on every later sample of equal content which one it repeats."""
    first: dict[str, str] = {}
    marked = []
    for sample in samples:
        original = first.setdefault(sample.media_id, sample.id)
        note = (f"the same content as {original}",) if original != sample.id else ()
        marked.append(sample.model_copy(update={"notes": (*sample.notes, *note)}))
    return marked


def _mark_alike(samples: Sequence[Sample], memo: Memo) -> list[Sample]:
    """Note on every later sample which other content it looks like."""
    looks: dict[str, str] = {}
    names: dict[str, str] = {}
    for sample in samples:
        record = memo.probes.get(probe_key(sample.media_id, sample.kind)) or {}
        look = record.get("probe", {}).get("look")
        if look is not None and sample.media_id not in looks:
            looks[sample.media_id], names[sample.media_id] = look, sample.id
    pairs = dict(alike(looks.items()))
    return [
        sample.model_copy(update={"notes": (*sample.notes, f"looks like {names[pairs[sample.media_id]]}")})
        if sample.media_id in pairs
        else sample
        for sample in samples
    ]


def outcome(snapshot: Snapshot, probed: int, undecided: int = 0) -> Outcome:
    total = len(snapshot.samples) + len(snapshot.rejections)
    return Outcome(
        counts={
            "files": total,
            "taken": len(snapshot.samples),
            "rejected": len(snapshot.rejections),
            "with_sound": sum(s.audio is not None and not s.audio.is_silence for s in snapshot.samples),
            "without_sound": sum(s.audio is None and s.kind == "video" for s in snapshot.samples),
            "done": probed,
            "hits": total - probed,
            UNDECIDED: undecided,
        },
        facts={"snapshot": snapshot.id, "data": snapshot.data_id},
    )
