"""probe-media: gives every file of the datasets a verdict, and the good ones everything needed to decode
them: a snapshot."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from ltxcore.config.dataset_remarks import remarks
from ltxcore.media.perceptual_hash import alike
from ltxcore.media.wanted import wanted_of
from ltxcore.pipeline.base.batches import in_batches
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.stamp import Outcome, output_file
from ltxcore.pipeline.base.work import Assignment, Result, Work, loaded
from ltxcore.pipeline.data.tables import Row, as_csv, dataset_rows
from ltxcore.stages.probe_media.files_not_taken import files_not_taken
from ltxcore.stages.probe_media.media_files import MediaFile, find_files
from ltxcore.stages.probe_media.memo import Memo, probe_key
from ltxcore.stages.probe_media.plan_samples import make_samples
from ltxcore.stages.probe_media.request import UNDECIDED
from ltxcore.stages.probe_media.trainable import NothingToTrain, require_trainable
from ltxcore.store.blobs import write_atomic
from ltxcore.store.snapshot import Rejection, Sample, Snapshot

logger = logging.getLogger(__name__)

BATCH_FILES = 64


def make_snapshot(
    ctx: Context, memo: Memo, files: Sequence[MediaFile], others: Sequence[Rejection] | None = None
) -> Snapshot:
    """Plan every file whose content is known. Whether there is enough to train is asked afterwards.

    Args:
        files: those of all datasets, or of an estimate those that are known already.
        others: what lies beside all files of the datasets; None: it is looked for beside `files`.
    """
    for remark in remarks(ctx.datasets):
        logger.info("%s", remark)
    samples, rejections = make_samples(ctx.datasets, memo, files)
    rejections += files_not_taken(ctx, files) if others is None else others
    return Snapshot(
        roots={d.id: str(ctx.datasets.directory(d)) for d in ctx.datasets.files},
        samples=tuple(_mark_alike(_mark_duplicates(samples), memo, ctx)),
        rejections=tuple(rejections),
        wants_audio=bool(ctx.datasets.audio) or any(d.wants_sound for d in ctx.datasets.video),
        fps=tuple(sorted({sample.frames.fps for sample in samples})),
    )


def _mark_duplicates(samples: Sequence[Sample]) -> list[Sample]:
    """Note on every later sample of equal content which one it repeats."""
    first: dict[str, str] = {}
    marked = []
    for sample in samples:
        original = first.setdefault(sample.media_id, sample.id)
        note = (f"the same content as {original}",) if original != sample.id else ()
        marked.append(sample.model_copy(update={"notes": (*sample.notes, *note)}))
    return marked


def _mark_alike(samples: Sequence[Sample], memo: Memo, ctx: Context) -> list[Sample]:
    """Note on every later sample of which other content it is a near duplicate."""
    looks: dict[str, str] = {}
    names: dict[str, str] = {}
    wanted = {dataset.id: wanted_of(dataset) for dataset in ctx.datasets.files}
    for sample in samples:
        content = memo.probes.get(probe_key(sample.media_id, sample.kind, wanted[sample.dataset]))
        look = None if content is None or content.probe is None else content.probe.get("look")
        if look is not None and sample.media_id not in looks:
            looks[sample.media_id], names[sample.media_id] = look, sample.id
    pairs = dict(alike(looks.items()))
    return [
        sample.model_copy(update={"notes": (*sample.notes, f"looks like {names[pairs[sample.media_id]]}")})
        if sample.media_id in pairs
        else sample
        for sample in samples
    ]


class ProbeMedia(Work[Sequence[MediaFile]]):
    """The files of the datasets that are not known yet, and then the snapshot of all of them."""

    counted, doing = "files", "looking at new files"
    loading, unit = "", "probe-batch"

    def __init__(self, asked: Assignment) -> None:
        super().__init__(asked)
        self._files, self.memo = find_files(self.ctx), Memo(self.ctx)
        self._unknown = self.memo.unknown(self._files)
        self.snapshot: Snapshot | None = None
        """Known with the outcome."""

    def total(self) -> int:
        return len(self._unknown)

    def units(self) -> Iterator[Sequence[MediaFile]]:
        return in_batches(self._unknown, BATCH_FILES)

    def do(self, unit: Sequence[MediaFile]) -> None:
        self.memo.probe_batch(unit, self.asked.progress.advance)

    def outcome(self) -> Result:
        """The snapshot, published. It is refused where nothing is left to train on: its table says why."""
        snapshot = self.snapshot = make_snapshot(self.ctx, self.memo, self._files)
        self.ctx.workspace.save_snapshot(snapshot)
        report = self.asked.directory / "dataset-report.csv"
        write_atomic(report, as_csv(self.rows()))
        files = (output_file(self.ctx.workspace, report),)
        outcome = snapshot_outcome(snapshot, len(self._unknown), self.memo.undecided)
        outcome = outcome.model_copy(update={"files": files})
        try:
            require_trainable(self.ctx, snapshot)
        except NothingToTrain as refusal:
            return Result(outcome, refusal=refusal)
        return Result(outcome)

    def rows(self) -> list[Row]:
        """Every file, its verdict and why."""
        snapshot = loaded(self.snapshot)
        return dataset_rows(snapshot, rates=self.memo.rates(snapshot.samples))


def snapshot_outcome(snapshot: Snapshot, probed: int, undecided: int = 0) -> Outcome:
    """The counts of a snapshot, of whose files `probed` were looked at in this run."""
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


WORK = ProbeMedia
