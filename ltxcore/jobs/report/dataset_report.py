"""Everything that the dataset report says, gathered from the snapshot and from what stages have stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from ltxcore.config.errors import ConfigError
from ltxcore.jobs.report.bucket_advice import BucketAdvice, NothingProbed, advise
from ltxcore.jobs.report.pictures import ReportPictures
from ltxcore.jobs.report.snapshot_changes import SnapshotChanges
from ltxcore.models.errors import ModelError
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import PROBE
from ltxcore.pipeline.base.stamp import whole_stamps
from ltxcore.pipeline.data.held_out import WHY, held_out
from ltxcore.pipeline.data.keys import TextSpace
from ltxcore.pipeline.data.rejection_reasons import Reason, by_reason
from ltxcore.pipeline.data.tables import Row, bucket_rows, counted, file_rate
from ltxcore.stages.probe_media.media_files import find_files
from ltxcore.stages.probe_media.memo import MEDIA_ID_DIGITS, Memo
from ltxcore.store.snapshot import Sample, Snapshot, SoundSelection
from ltxcore.store.texts import TextStore

PAGE = "dataset-report.html"


@dataclass(frozen=True)
class Clip:
    """One file of the datasets, as the report tells it."""

    id: str
    verdict: str
    remarks: tuple[str, ...]
    file: str = ""
    """Where the file lies, as a URI; empty for a rejected file."""
    kind: str = ""
    """`video`, `image` or `audio`; empty for a rejected file."""
    media_id: str = ""
    bucket: str = ""
    size: str = ""
    fps: float = 0.0
    """Of the file, as most of its frames follow each other."""
    source_s: float = 0.0
    used_s: float = 0.0
    frames_used: int = 0
    frames_dropped: int = 0
    """At the rate of the sample."""
    visits: float = 0.0
    captions: tuple[str, ...] = ()
    tokens: int | None = None
    """Of the longest caption; None where embed-text has not run."""
    cut_from: int = 0
    """Tokens of a caption that was cut, else 0."""
    sound: str = ""
    loudness_lufs: float | None = None
    waveform: str = ""


@dataclass(frozen=True)
class DatasetReport:
    """The report's content."""

    snapshot: Snapshot
    clips: tuple[Clip, ...]
    buckets: tuple[Row, ...]
    advice: tuple[BucketAdvice, ...]
    reasons: tuple[Reason, ...]
    thumbnails: Mapping[str, bytes]
    """Media id -> JPEG."""
    max_tokens: int | None
    changes: SnapshotChanges | None = None
    run: str = ""
    """The run that the report is of; empty where a stage ran by itself."""
    made: datetime | None = None
    """When the snapshot was made, in local time; None where it is not kept."""

    @property
    def taken(self) -> list[Clip]:
        """The clips that were not rejected."""
        return [clip for clip in self.clips if clip.verdict != "rejected"]

    def facts(self) -> dict[str, str]:
        """The figures that stand at the top; none of lengths for pictures, none of frames for sounds."""
        taken, rejected = self.taken, len(self.snapshot.rejections)
        lasting = [c for c in taken if c.kind != "image"]
        source_s, used_s = sum(c.source_s for c in lasting), sum(c.used_s for c in lasting)
        seen = [c for c in taken if c.kind == "video"]
        used, dropped = sum(c.frames_used for c in seen), sum(c.frames_dropped for c in seen)
        sounding = sum(bool(c.sound) for c in taken)
        apart = sum(WHY in c.remarks for c in taken)
        return {
            "Files": f"{len(self.clips)}",
            "Taken": f"{len(taken)}",
            "Rejected": f"{rejected}",
            **({"Held out": f"{apart}"} if apart else {}),
            "Buckets": f"{len(self.buckets)}",
            **({"Length used": f"{_time(used_s)} of {_time(source_s)}"} if lasting else {}),
            **({"Frames used": f"{used:,} of {used + dropped:,}"} if seen else {}),
            **({"With sound": f"{sounding} of {len(lasting)}"} if lasting else {}),
            "Captions": f"{len({text for c in taken for text in c.captions})} different",
            "Visits an epoch": f"{sum(c.visits for c in taken):g}",
        }

    def warnings(self) -> list[str]:
        """What its owner should look at first."""
        messages = []
        taken = self.taken
        clips = [clip for clip in taken if clip.kind == "video"]
        silent = sum(not clip.sound for clip in clips)
        if self.snapshot.wants_audio and silent:
            have = "has" if silent == 1 else "have"
            messages.append(
                f"{silent} of {counted(len(clips), 'clip')} {have} no sound; there the audio loss is masked"
            )
        if cut := [clip for clip in taken if clip.cut_from]:
            messages.append(f"cut at {self.max_tokens} tokens: {counted(len(cut), 'caption')}")
        if quiet := [c for c in taken if c.sound and c.loudness_lufs is not None and c.loudness_lufs < -45]:
            messages.append(f"very quiet (below -45 LUFS): {counted(len(quiet), 'clip')}")
        if repeated := [c for c in taken if any("same content" in remark for remark in c.remarks)]:
            messages.append(f"the same content as another: {counted(len(repeated), 'clip')}")
        if broken := [c for c in taken if c.verdict == "quarantined"]:
            messages.append(f"{counted(len(broken), 'clip')} could not be encoded: not trained on")
        return messages


def gather(
    ctx: Context,
    quarantined: Mapping[str, str] | None = None,
    changes: SnapshotChanges | None = None,
    run: str = "",
) -> DatasetReport:
    """The report of the context's snapshot; makes thumbnails and waveforms that are not there yet."""
    snapshot = ctx.snapshot
    memo, pictures = Memo(ctx), ReportPictures(ctx)
    rates = memo.rates(snapshot.samples)
    loudness = {
        key[:MEDIA_ID_DIGITS]: content.probe.get("loudness_lufs")
        for key, content in memo.probes.items()
        if content.probe is not None
    }
    waveforms = pictures.waveforms(snapshot)
    tokens, max_tokens = caption_tokens(ctx, snapshot)
    clips = [
        _clip(
            sample,
            quarantined or {},
            loudness.get(_heard(sample)),
            waveforms.get(sample.id, ""),
            tokens,
            file_rate(sample, rates),
            snapshot.file(sample),
        )
        for sample in snapshot.samples
    ]
    apart = held_out(ctx.recipe.evaluation, snapshot)
    clips = [replace(c, visits=0.0, remarks=(WHY, *c.remarks)) if c.id in apart else c for c in clips]
    clips += [Clip(r.id, "rejected", (r.reason,)) for r in snapshot.rejections]
    return DatasetReport(
        snapshot=snapshot,
        clips=tuple(sorted(clips, key=lambda clip: clip.id)),
        buckets=tuple(bucket_rows(snapshot)),
        advice=tuple(_advice(ctx, memo, snapshot)),
        reasons=tuple(by_reason(snapshot.rejections)),
        thumbnails=pictures.thumbnails(snapshot),
        max_tokens=max_tokens,
        changes=changes,
        run=run,
        made=ctx.workspace.snapshot_made(snapshot.id),
    )


def _heard(sample: Sample) -> str:
    """The content that a sample's sound comes from."""
    linked = sample.audio.sound if sample.audio else None
    return sample.media_id if linked is None else linked.media_id


def _layout(audio: SoundSelection) -> str:
    """WAV names no layout for the usual ones."""
    if audio.layout != "unknown":
        return audio.layout
    return {1: "mono", 2: "stereo"}.get(audio.channels, f"{audio.channels} channels")


def _clip(
    sample: Sample,
    quarantined: Mapping[str, str],
    loudness: float | None,
    waveform: str,
    tokens: Mapping[str, tuple[int, int]],
    fps: float,
    file: Path,
) -> Clip:
    error = quarantined.get(sample.id)
    counted = [tokens[text] for text in sample.captions if text in tokens]
    there = max(sample.frames.count, round(sample.source_duration_s * sample.frames.fps))
    return Clip(
        id=sample.id,
        verdict="taken" if error is None else "quarantined",
        remarks=sample.notes if error is None else (error, *sample.notes),
        file=file.resolve().as_uri(),
        kind=sample.kind,
        media_id=sample.media_id,
        bucket=sample.bucket,
        size="" if sample.kind == "audio" else "{}x{}".format(*sample.geometry.source),
        fps=fps,
        source_s=sample.source_duration_s,
        used_s=sample.audio.duration_s
        if sample.kind == "audio" and sample.audio
        else sample.frames.duration_s,
        frames_used=sample.frames.count,
        frames_dropped=there - sample.frames.count,
        visits=sample.visits * sample.probability,
        captions=sample.captions,
        tokens=max((count for count, _ in counted), default=None),
        cut_from=max((cut for _, cut in counted), default=0),
        sound=_layout(sample.audio) if sample.audio else "",
        loudness_lufs=loudness if sample.audio else None,
        waveform=waveform,
    )


def caption_tokens(ctx: Context, snapshot: Snapshot) -> tuple[dict[str, tuple[int, int]], int | None]:
    """Caption -> (tokens, tokens before it was cut or 0) where embed-text has run, and the limit.

    Nothing where the recipe's model is not on this machine: the report needs no model.
    """
    try:
        space = TextSpace.of(ctx.source, ctx.recipe)
    except ModelError:
        return {}, None
    store = TextStore(ctx.store)
    keys = {caption: space.key(caption).value for caption in snapshot.captions()}
    absent = set(store.missing(keys.values()))
    counts = {text: store.index[key].tokens for text, key in keys.items() if key not in absent}
    full = [text for text, count in counts.items() if count >= space.max_tokens]
    cut = {text: store.read(keys[text]).truncated_from for text in full}
    return {text: (count, cut.get(text, 0)) for text, count in counts.items()}, space.max_tokens


def _advice(ctx: Context, memo: Memo, snapshot: Snapshot) -> list[BucketAdvice]:
    """Advice, where the dataset file at hand is the one that the snapshot was made from."""
    try:
        here = {d.id: str(ctx.datasets.directory(d)) for d in ctx.datasets.files}
        if not here.items() <= snapshot.roots.items():
            return []
        return advise(ctx, memo, find_files(ctx))
    except (ConfigError, NothingProbed):
        return []


def report_directory(ctx: Context) -> Path:
    """The directory of the probe-media stage that made the context's snapshot."""
    for directory, stamp in whole_stamps(ctx.workspace, PROBE):
        if stamp.outcome.facts["snapshot"] == ctx.snapshot.id:
            return directory
    return ctx.workspace.stages / PROBE.name / f"snapshot-{ctx.snapshot.id}"


def _time(seconds: float) -> str:
    """The length of material. To the second, since it is added up and compared; a wait is rounded more."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
