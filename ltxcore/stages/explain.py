"""What the pipeline knows of one clip, and what it would do now and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ltxcore.config.errors import ConfigError, nearest
from ltxcore.models.errors import ModelError
from ltxcore.stages import probe_media
from ltxcore.stages.context import Context
from ltxcore.stages.contract import AUDIO, FRAMES, LATENTS, PROBE, TEXT, MissingInput, asked_stages
from ltxcore.stages.held_out import WHY, held_out_ids
from ltxcore.stages.plan_samples import plan_files
from ltxcore.stages.reasons import (
    COMPANIONS,
    MISSING,
    QUARANTINED,
    History,
    Track,
    all_tracks,
    count_reasons,
)
from ltxcore.stages.run import find_result
from ltxcore.stages.stamp import read_manifest, read_stamp, why_stale
from ltxcore.store.blobs import read_json
from ltxcore.store.snapshot import Rejection, Sample
from ltxcore.store.workspace import UnknownSnapshot

MAKERS = {
    "waveform": AUDIO.name,
    "video latents": LATENTS.name,
    "audio latents": LATENTS.name,
    "text features": TEXT.name,
    "teacher features": FRAMES.name,
    **dict.fromkeys(COMPANIONS.values(), LATENTS.name),
}


class UnknownClip(LookupError):
    """Neither the snapshot nor the datasets have such a clip."""


@dataclass
class ClipReport:
    """Everything that is known of a clip."""

    clip: str
    file: str
    verdict: str = ""
    """`in`, `rejected`, `quarantined` or `gone`, as things are now."""
    reason: str = ""
    tracks: list[Track] = field(default_factory=list)
    work: list[str] = field(default_factory=list)
    """What a run would do for it now, and why."""
    snapshots: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            "clip": self.clip,
            "file": self.file,
            "verdict": self.verdict,
            "reason": self.reason,
            "keys": [
                {"what": t.what, "key": t.key.value, "state": t.state, "why": t.why, "inputs": t.key.inputs}
                for t in self.tracks
            ],
            "would_do": self.work,
            "snapshots": self.snapshots,
            "runs": self.runs,
        }


@dataclass(frozen=True)
class StageReport:
    """Whether a stage is up to date."""

    stage: str
    state: str
    why: list[str]


def explain_clip(ctx: Context, clip: str) -> ClipReport:
    """Explain a clip by its id (`dataset/path`) or its path.

    Raises:
        UnknownClip: there is no such clip, with the nearest one.
    """
    found = probe_media.find_files(ctx)
    files = {file.id: file for file in found}
    strays = {stray.id: stray for stray in probe_media.strays(ctx, found)}
    before = _seen(ctx)
    clip_id = _find(ctx, clip, files, {**before, **strays})
    past = before.get(clip_id)
    report = ClipReport(clip_id, str(_place(ctx, clip_id, files, strays) or (past.path if past else "")))
    report.snapshots, report.runs = _history(ctx, clip_id)
    if clip_id in files:
        _judge(ctx, report, files, past)
    elif clip_id in strays:
        report.verdict, report.reason = "rejected", strays[clip_id].reason
    else:
        report.verdict, report.reason = "gone", "the file is no longer in its dataset"
    return report


def _judge(
    ctx: Context,
    report: ClipReport,
    files: Mapping[str, probe_media.MediaFile],
    past: Sample | Rejection | None,
) -> None:
    """Put into the report what a run now would make of a file that is there."""
    file = files[report.clip]
    memo = probe_media.Memo(ctx)
    known = memo.look_up(file)
    if known is None:
        memo.look_at(file)
    samples, rejections = plan_files(ctx.datasets, memo, _with_helpers(ctx, file, files))
    verdicts: list[Sample | Rejection] = [*samples, *rejections]
    verdict = next((entry for entry in verdicts if entry.id == file.id), None)
    report.work += [] if known is not None else [f"{PROBE.name}: {_why_unknown(past, verdict)}"]
    if verdict is None:
        users = [sample.id for sample in samples if file.id in sample.helpers]
        report.verdict, report.reason = "in", f"it belongs to {', '.join(users)}"
    elif isinstance(verdict, Rejection):
        report.verdict, report.reason = "rejected", verdict.reason
    else:
        if known is not None and _plan_changed(past, verdict):
            differs = "differs from the one in" if isinstance(past, Sample) else "is not in"
            where = f"snapshot {ctx.snapshot.id}" if past is not None else "the snapshot"
            report.work.append(f"{PROBE.name}: its plan {differs} {where}")
        report.verdict, report.reason = "in", "; ".join([*_held_out(ctx, verdict), *verdict.notes])
        _look_into_store(ctx, report, verdict, past)


def _look_into_store(
    ctx: Context, report: ClipReport, sample: Sample, past: Sample | Rejection | None
) -> None:
    try:
        report.tracks = History(ctx).tracks(sample)
    except ModelError as error:
        report.work.append(f"{LATENTS.name}, {TEXT.name}: not known without the model: {error}")
    new_media = isinstance(past, Sample) and past.media_id != sample.media_id
    for track in report.tracks:
        if track.state == MISSING:
            why = "changed: the file's content" if new_media and track.why.startswith("new") else track.why
            report.work.append(f"{MAKERS[track.what]}: {track.what}, {why}")
        elif track.state == QUARANTINED:
            report.verdict, report.reason = "quarantined", track.why


def _with_helpers(
    ctx: Context, file: probe_media.MediaFile, files: Mapping[str, probe_media.MediaFile]
) -> list[probe_media.MediaFile]:
    """A clip with the files of other datasets that may belong to it; of such a file, all clips."""
    helpers = ctx.datasets.linked_ids | {dataset.id for dataset in ctx.datasets.conditioning}
    if file.dataset.id in helpers:
        return list(files.values())
    return [other for other in files.values() if other.dataset.id in helpers or other.id == file.id]


def _held_out(ctx: Context, sample: Sample) -> list[str]:
    others = [entry for entry in _seen(ctx).values() if isinstance(entry, Sample)]
    return [WHY] if sample.id in held_out_ids(ctx.recipe.evaluation, [*others, sample]) else []


def _seen(ctx: Context) -> dict[str, Sample | Rejection]:
    """The clips of the context's snapshot; none where there is no snapshot yet."""
    try:
        snapshot = ctx.snapshot
    except UnknownSnapshot:
        return {}
    entries: list[Sample | Rejection] = [*snapshot.samples, *snapshot.rejections]
    return {entry.id: entry for entry in entries}


def _find(
    ctx: Context,
    clip: str,
    files: Mapping[str, probe_media.MediaFile],
    others: Mapping[str, Sample | Rejection],
) -> str:
    known = {**dict.fromkeys(others), **dict.fromkeys(files)}
    if clip in known:
        return clip
    wanted = Path(clip).expanduser().resolve()
    places = {name: _place(ctx, name, files, others) for name in known}
    by_path = [n for n, place in places.items() if place and (place == wanted or place.resolve() == wanted)]
    by_name = [name for name in known if name.endswith(f"/{clip}")]
    found = by_path or by_name
    if len(found) == 1:
        return found[0]
    if found:
        raise UnknownClip(f"{clip!r} may be {', '.join(sorted(found))}; give the whole id")
    raise UnknownClip(f"there is no clip {clip!r} in the datasets or the snapshot; {nearest(clip, known)}")


def _place(
    ctx: Context,
    clip_id: str,
    files: Mapping[str, probe_media.MediaFile],
    others: Mapping[str, Sample | Rejection],
) -> Path | None:
    """Where a file lies, or would; None where its dataset is no more."""
    if clip_id in files:
        return files[clip_id].path
    roots = {dataset.id: ctx.datasets.directory(dataset) for dataset in ctx.datasets.files}
    other = others.get(clip_id)
    return roots[other.dataset] / other.path if other is not None and other.dataset in roots else None


def _why_unknown(past: Sample | Rejection | None, now: Sample | Rejection | None) -> str:
    if past is None:
        return "the file is new"
    if isinstance(past, Sample) and isinstance(now, Sample) and past.media_id == now.media_id:
        return "the file was touched or moved; its content is the same"
    return "the file was changed since it was looked at"


def _plan_changed(past: Sample | Rejection | None, now: Sample) -> bool:
    # The note on duplicates is made of all clips together.
    return not isinstance(past, Sample) or past.model_copy(update={"notes": ()}) != now.model_copy(
        update={"notes": ()}
    )


def _history(ctx: Context, clip_id: str) -> tuple[list[str], list[str]]:
    """The snapshots that name a clip, with its verdict in each, and the runs that used them."""
    saw: dict[str, str] = {}
    for file in sorted(ctx.workspace.snapshots.glob("*.json")):
        data = read_json(file)
        for kind, verdict in (("samples", "in"), ("rejections", "rejected")):
            for entry in data.get(kind, ()):
                if entry["id"] == clip_id:
                    media = f", content {entry['media_id'][:12]}" if kind == "samples" else ""
                    saw[file.stem] = f"{file.stem}: {verdict}{media}"
                elif kind == "samples" and clip_id in Sample.model_validate(entry).helpers:
                    saw[file.stem] = f"{file.stem}: {verdict}, with {entry['id']}"
    runs = [name for name, snapshot in _runs(ctx) if snapshot in saw]
    return list(saw.values()), runs


def _runs(ctx: Context) -> Iterator[tuple[str, str]]:
    """Each run and the snapshot that its probe-media made or found."""
    if not ctx.workspace.runs.is_dir():
        return
    for folder in sorted(ctx.workspace.runs.iterdir()):
        entry = read_manifest(folder, PROBE) if folder.is_dir() else None
        if entry is not None and (ctx.workspace.root / entry.stamp).exists():
            yield folder.name, str(read_stamp(ctx.workspace, entry).outcome.facts["snapshot"])


def explain_stages(ctx: Context) -> list[StageReport]:
    """For each stage: up to date, or why it would run; and what its work would be."""
    reports = []
    work = _work(ctx)
    for stage in asked_stages(ctx.recipe):
        try:
            request, stamp = find_result(stage, ctx)
        except (MissingInput, ModelError, ConfigError) as error:
            reports.append(StageReport(stage.name, "waits", [str(error)]))
            continue
        if stamp is not None:
            reports.append(StageReport(stage.name, "up to date", []))
        else:
            why = why_stale(ctx.workspace, stage, request)
            reports.append(StageReport(stage.name, "stale", [why, *work.get(stage.name, [])]))
    return reports


def _work(ctx: Context) -> dict[str, list[str]]:
    """What each data stage would compute for the present snapshot, by reason."""
    try:
        tracks = all_tracks(ctx)
    except (UnknownSnapshot, ModelError):
        return {}
    by_stage: dict[str, list[Track]] = {}
    for track in tracks:
        by_stage.setdefault(MAKERS[track.what], []).append(track)
    return {stage: count_reasons(found) for stage, found in by_stage.items()}
