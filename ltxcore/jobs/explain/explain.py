"""What the pipeline knows about one clip, what a run would do now, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ltxcore.config.errors import ConfigError, nearest
from ltxcore.execution.execution import NOTHING_CHANGED, find_result, why_up_to_date
from ltxcore.jobs.estimate.figures import Planned
from ltxcore.jobs.explain.missing_keys import (
    CONDITIONING_TRACKS,
    MISSING,
    QUARANTINED,
    SOUND_TRACKS,
    History,
    Track,
    all_tracks,
    count_reasons,
)
from ltxcore.models.errors import ModelError
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import (
    AUDIO,
    FRAMES,
    LATENTS,
    PROBE,
    TEXT,
    TRAIN,
    MissingInput,
    asked_stages,
)
from ltxcore.pipeline.base.stamp import FIRST_RUN, read_manifest, read_stamp, stage_directory, why_stale
from ltxcore.pipeline.data.held_out import WHY, held_out_ids
from ltxcore.pipeline.data.tables import counted
from ltxcore.stages.probe_media.files_not_taken import files_not_taken
from ltxcore.stages.probe_media.media_files import MediaFile, find_files
from ltxcore.stages.probe_media.memo import Memo
from ltxcore.stages.probe_media.plan_samples import make_samples
from ltxcore.stages.probe_media.trainable import NothingToTrain, require_trainable
from ltxcore.stages.probe_media.work import make_snapshot
from ltxcore.stages.train_lora.sample_steps import reached_step
from ltxcore.store.snapshot import Rejection, Sample
from ltxcore.store.workspace import LATEST, UnknownSnapshot, read_snapshot

SOUND, REFERENCE_SOUND = SOUND_TRACKS
"""What is made of the sound of a clip, and of the one that is given beside it."""
MAKERS = {
    SOUND[0]: AUDIO.name,
    "video latents": LATENTS.name,
    SOUND[1]: LATENTS.name,
    "text features": TEXT.name,
    "teacher features": FRAMES.name,
    **dict.fromkeys(CONDITIONING_TRACKS.values(), LATENTS.name),
    REFERENCE_SOUND[0]: AUDIO.name,
    REFERENCE_SOUND[1]: LATENTS.name,
}


class UnknownClip(LookupError):
    """There is no such clip in the snapshot or the datasets."""


@dataclass(frozen=True)
class ClipReport:
    """Everything that is known of a clip."""

    clip: str
    file: str
    verdict: str
    """`in`, `rejected` or `quarantined`, as things are now."""
    reason: str
    used: list[str] = field(default_factory=list)
    """What of the file is trained on, in words."""
    tracks: list[Track] = field(default_factory=list)
    work: list[str] = field(default_factory=list)
    """What a run would do for it now, and why."""
    snapshots: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The report as plain JSON, with all inputs of each key."""
        return {
            "clip": self.clip,
            "file": self.file,
            "verdict": self.verdict,
            "reason": self.reason,
            "used": self.used,
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
    """Explain a clip, given its id (`dataset/path`) or its path.

    Raises:
        UnknownClip: there is no such clip, with the nearest one.
    """
    found = find_files(ctx)
    files = {file.id: file for file in found}
    not_taken = {file.id: file for file in files_not_taken(ctx, found)}
    before = _seen(ctx)
    clip_id = _find(ctx, clip, files, {**before, **not_taken})
    past = before.get(clip_id)
    memo = Memo(ctx)
    known = memo.look_up(files[clip_id]) if clip_id in files else None
    saw, runs = _history(ctx, clip_id, None if known is None else known[0])
    if clip_id in not_taken:
        place, reason = str(_place(ctx, not_taken[clip_id])), not_taken[clip_id].reason
        return ClipReport(clip_id, place, "rejected", reason, snapshots=saw, runs=runs)
    if clip_id not in files:
        reason = "the file is no longer in its dataset"
        return ClipReport(clip_id, past.path if past else "", "gone", reason, snapshots=saw, runs=runs)
    file = files[clip_id]
    # What belongs to a clip (a sound, a reference, a mask) has its name.
    alike = [other for other in files.values() if other.path.stem == file.path.stem]
    for other in memo.unknown(alike):
        memo.look_at(other)
    samples, rejections = make_samples(ctx.datasets, memo, alike)
    rejected = next((entry for entry in rejections if entry.id == clip_id), None)
    if rejected is not None:
        work = [] if known is not None else [f"{PROBE.name}: {_why_unknown(past, rejected)}"]
        return ClipReport(
            clip_id, str(file.path), "rejected", rejected.reason, work=work, snapshots=saw, runs=runs
        )
    sample = next(sample for sample in samples if clip_id in _files_of(sample))
    tracks, without = _tracks(ctx, sample, clip_id)
    broken = next((t.why for t in tracks if t.state == QUARANTINED), None)
    roles = [f"belongs to {sample.id}"] if sample.id != clip_id else []
    return ClipReport(
        clip_id,
        str(file.path),
        "in" if broken is None else "quarantined",
        broken or "; ".join([*roles, *_held_out(ctx, sample), *sample.notes]),
        _used(sample),
        tracks,
        [*_work_on(ctx, sample, clip_id, tracks, looked_at=known is not None), *without],
        saw,
        runs,
    )


def _used(sample: Sample) -> list[str]:
    """The pictures, the sound and the captions that are trained on."""
    frames, geometry, lines = sample.frames, sample.geometry, []
    if sample.kind != "audio":
        width, height = geometry.target
        from_size = (
            "" if geometry.source == geometry.target else f" of {geometry.source[0]}x{geometry.source[1]}"
        )
        length = (
            ""
            if sample.kind == "image"
            else (f", {counted(frames.count, 'frame')} at {frames.fps:g} fps from {frames.start_s:.2f} s")
        )
        lines.append(
            f"pictures: {width}x{height}{from_size}{length}, of {sample.source_duration_s:.2f} s in all"
        )
    sound = sample.audio
    if sound is None:
        lines.append("sound: none")
    elif sound.is_silence:
        lines.append("sound: silence, since it has none of its own")
    else:
        whose = "" if sound.sound is None else f" of {sound.sound.dataset}/{sound.sound.path}"
        stretch = f"{sound.duration_s:.2f} s from {sound.start_s:.2f} s"
        lines.append(f"sound: {stretch}, {sound.layout}{whose}")
    lines += [f"caption: {caption}" for caption in sample.captions]
    return lines


def _tracks(ctx: Context, sample: Sample, clip_id: str) -> tuple[list[Track], list[str]]:
    """The stored values that a file needs; a note instead if the model is not on this machine."""
    try:
        found = History(ctx).tracks(sample)
    except ModelError as error:
        return [], [f"{LATENTS.name}, {TEXT.name}: not known without the model: {error}"]
    return [track for track in found if track.what in _files_of(sample)[clip_id]], []


def _files_of(sample: Sample) -> dict[str, set[str]]:
    """The ids of a sample and its conditioning files, with what is computed from each."""
    found = {sample.id: set(MAKERS)}
    found |= {
        condition.id: {CONDITIONING_TRACKS[condition.purpose]} for condition in sample.conditioning_clips
    }
    if sample.audio is not None and sample.audio.sound is not None:
        found[f"{sample.audio.sound.dataset}/{sample.audio.sound.path}"] = set(SOUND)
    if sample.reference_sound is not None and sample.reference_sound.sound is not None:
        beside = sample.reference_sound.sound
        found[f"{beside.dataset}/{beside.path}"] = set(REFERENCE_SOUND)
    return found


def _work_on(ctx: Context, sample: Sample, clip_id: str, tracks: list[Track], looked_at: bool) -> list[str]:
    """What a run would do now for a clip, or for a file that belongs to it."""
    past = _seen(ctx).get(sample.id)
    work = []
    if not looked_at:
        why = _why_unknown(past, sample) if sample.id == clip_id else "the file is new, or was changed"
        work.append(f"{PROBE.name}: {why}")
    elif _plan_changed(past, sample):
        where = (
            "no snapshot has its plan yet"
            if past is None
            else f"its plan differs from the one in snapshot {ctx.snapshot.id}"
        )
        work.append(f"{PROBE.name}: {where}")
    new_media = isinstance(past, Sample) and past.media_id != sample.media_id
    for track in tracks:
        if track.state == MISSING:
            why = "changed: the file's content" if new_media and track.why.startswith("new") else track.why
            work.append(f"{MAKERS[track.what]}: {track.what}, {why}")
    return work


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
    files: Mapping[str, MediaFile],
    others: Mapping[str, Sample | Rejection],
) -> str:
    known = {**dict.fromkeys(others), **dict.fromkeys(files)}
    if clip in known:
        return clip
    path = Path(clip).expanduser().resolve()
    by_path = [file.id for file in files.values() if file.path == path or file.path.resolve() == path]
    by_path += [name for name, other in others.items() if name not in files and _place(ctx, other) == path]
    by_name = [name for name in known if name.endswith(f"/{clip}")]
    found = by_path or by_name
    if len(found) == 1:
        return found[0]
    if found:
        raise UnknownClip(f"{clip!r} may be {', '.join(sorted(found))}; give the whole id")
    raise UnknownClip(f"there is no clip {clip!r} in the datasets or the snapshot; {nearest(clip, known)}")


def _place(ctx: Context, entry: Sample | Rejection) -> Path | None:
    """The path of an entry's file, which may be gone; None if its dataset no longer exists."""
    datasets = (dataset for dataset in ctx.datasets.files if dataset.id == entry.dataset)
    return next((ctx.datasets.directory(dataset) / entry.path for dataset in datasets), None)


def _why_unknown(past: Sample | Rejection | None, now: Sample | Rejection) -> str:
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


def _history(ctx: Context, clip_id: str, now: str | None) -> tuple[list[str], list[str]]:
    """The snapshots that contain a clip, its verdict in each, and the runs that used them.

    Args:
        now: the hash of the clip's content; None where nobody has looked at it as it is now.
    """
    saw: dict[str, str] = {}
    for file in ctx.workspace.snapshot_files():
        snapshot = read_snapshot(file)
        if any(rejection.id == clip_id for rejection in snapshot.rejections):
            saw[file.stem] = f"{file.stem}: rejected"
        for sample in snapshot.samples:
            if clip_id in _files_of(sample):
                whose = f", with {sample.id}" if sample.id != clip_id else ""
                changed = ", with other content" if not whose and now not in (None, sample.media_id) else ""
                saw[file.stem] = f"{file.stem}: in{whose}{changed}"
    runs = [name for name, snapshot in _runs(ctx) if snapshot in saw]
    return list(saw.values()), runs


def _runs(ctx: Context) -> Iterator[tuple[str, str]]:
    """Each run with the snapshot of its probe-media."""
    if not ctx.workspace.runs.is_dir():
        return
    for folder in sorted(ctx.workspace.runs.iterdir()):
        entry = read_manifest(folder, PROBE) if folder.is_dir() else None
        if entry is not None and (ctx.workspace.root / entry.stamp).exists():
            yield folder.name, str(read_stamp(ctx.workspace, entry).outcome.facts["snapshot"])


def explain_stages(ctx: Context) -> list[StageReport]:
    """For each stage: up to date, or why it would run; and what its work would be.

    For the newest snapshot, the stages after probe-media are asked with the snapshot that a run would make
    now, as far as the files have been looked at.
    """
    reports = []
    if ctx.snapshot_id == LATEST:
        ctx = _as_a_run_would(ctx)
    work = _work(ctx)
    for stage in asked_stages(ctx.recipe):
        try:
            request, stamp = find_result(stage, ctx)
        except (MissingInput, ModelError, ConfigError) as error:
            reports.append(StageReport(stage.name, "waits", [str(error)]))
            continue
        if stamp is not None:
            why = why_up_to_date(stamp)
            reports.append(StageReport(stage.name, "up to date", [] if why == NOTHING_CHANGED else [why]))
        else:
            why = why_stale(ctx.workspace, stage, request)
            if stage is TRAIN and (step := reached_step(stage_directory(ctx.workspace, stage, request))):
                stopped = f"was stopped after step {step}, and continues there"
                why = stopped if why == FIRST_RUN else f"{stopped}; {why}"
            reports.append(StageReport(stage.name, "stale", [why, *work.get(stage.name, [])]))
    return reports


def _as_a_run_would(ctx: Context) -> Context:
    """The context with the snapshot that probe-media would give now."""
    try:
        _, stamp = find_result(PROBE, ctx)
        if stamp is not None:
            return replace(ctx, snapshot_id=str(stamp.outcome.facts["snapshot"]))
        files, memo = find_files(ctx), Memo(ctx)
        unknown = {file.id for file in memo.unknown(files)}
        planned = make_snapshot(ctx, memo, [file for file in files if file.id not in unknown])
        require_trainable(ctx, planned)
    except (ConfigError, NothingToTrain):
        # Then there is none, and probe-media says so.
        return ctx
    return Planned(ctx.workspace, ctx.recipe, ctx.datasets_file, planned=planned)


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
