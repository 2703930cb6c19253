"""What a run would do, write and take, before anything is spent: from headers, the store and old stamps."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from ltxcore.execution.memory_check import memory_plans
from ltxcore.jobs.estimate.disks import Disk, disks
from ltxcore.jobs.estimate.figures import Planned, PlannedData, StageEstimate, Weights
from ltxcore.jobs.estimate.predicted_seconds import Predictor, file_seconds
from ltxcore.jobs.estimate.rates import Rates
from ltxcore.jobs.estimate.stage_estimates import (
    most_there_can_be,
    nothing_to_do,
    planned_batch_entries,
    stage_estimates,
)
from ltxcore.media.ffmpeg_process import processes_at_once
from ltxcore.memory.plan import MemoryPlan
from ltxcore.memory.planned_machine import planned_machine
from ltxcore.models.errors import ModelError
from ltxcore.models.files.locate_weights import may_be_hub_id
from ltxcore.models.files.released import released_model, version_asked
from ltxcore.models.version import Version
from ltxcore.models.versions import VERSIONS
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import PROBE, TRAIN
from ltxcore.pipeline.data.held_out import check_datasets
from ltxcore.stages.probe_media.files_not_taken import files_not_taken
from ltxcore.stages.probe_media.media_files import MediaFile, find_files
from ltxcore.stages.probe_media.memo import Memo
from ltxcore.stages.probe_media.trainable import NothingToTrain, require_trainable
from ltxcore.stages.probe_media.work import make_snapshot
from ltxcore.store.snapshot import Snapshot
from ltxcore.training.batch_schedule import check_buckets

MOST_HEADERS: Final = 6
"""Files whose headers are read where probe-media has not looked: each costs two calls of ffprobe."""
ASSUMED: Final = VERSIONS["2.0"]
"""Of a repository that is not here and whose name tells no version."""


@dataclass(frozen=True)
class Estimate:
    """A run, stage by stage."""

    files: int
    """All that lies in the directories, also what no dataset takes; no captions and no tables."""
    looked_at: int
    """Taken, rejected, and used by clips."""
    taken: int
    rejected: int
    used_by_clips: int
    """Sounds, references and masks that belong to clips."""
    headers: int
    """Of those looked at, how many by their headers alone, since probe-media has not seen them."""
    stages: tuple[StageEstimate, ...]
    disks: tuple[Disk, ...]
    problems: tuple[str, ...] = ()
    """Why a run would fail although the configuration is right."""
    snapshot: Snapshot | None = None
    """The clips that it is about; None where none is known."""
    scale: float = 1.0
    """Files for each that was looked at."""
    weights: Weights = Weights.HERE
    """Whether the model is on this machine."""
    released: Version | None = None
    """The version that stands in, at its released size, for weights that are not here."""
    download_bytes: int = 0
    """What the first run fetches before it starts, as far as it is known."""

    @property
    def disk_bytes(self) -> int:
        """Bytes that all stages will write, as far as they are known."""
        return sum(stage.disk_bytes or 0 for stage in self.stages)

    @property
    def seconds(self) -> float | None:
        """The sum, or None where a stage with work has no rate."""
        working = [stage for stage in self.stages if stage.to_do != 0]
        known = [stage.seconds for stage in working if stage.seconds is not None]
        return sum(known) if len(known) == len(working) else None


def estimate(ctx: Context, released: Version | None = None) -> Estimate:
    """Estimate a run of the whole pipeline, on the machine that is planned for.

    Reads file stats, the store, and of files that probe-media has not seen the headers of some; it neither
    decodes nor writes.

    Args:
        released: the version to plan for, at its released size, in place of the recipe's model.

    Raises:
        ConfigError: the datasets are wrong.
    """
    check_datasets(ctx.recipe.evaluation, ctx.datasets)
    files, memo = find_files(ctx), Memo(ctx)
    unknown = {file.id for file in memo.unknown(files)}
    headers = _read_headers(memo, [file for file in files if file.id in unknown])
    known = [file for file in files if file.id not in unknown or file.id in headers]
    others = files_not_taken(ctx, files)
    snapshot = make_snapshot(ctx, memo, known, others)
    data = _plan(ctx, snapshot, len(known), len(files))
    rates = Rates(ctx.workspace)
    in_place = len(files) - len(unknown)
    stages = [StageEstimate(PROBE, len(unknown), "files", in_place, 0, rates.seconds(PROBE, len(unknown)))]
    model, weights = _model(ctx, released)
    if data.snapshot is None:
        stages += most_there_can_be(ctx, len(files)) if not data.problems else nothing_to_do(ctx)
        stages = [_with_seconds(stage, None) for stage in stages]
    else:
        planned = planned_context(ctx, data.snapshot, model)
        stages += stage_estimates(planned, data, rates, weights)
        stages = planned_stages(planned, stages, data.problems)
    taken, rejected = len(snapshot.samples), len(snapshot.rejections)
    looked_at = len(known) + len(others)
    whole = Estimate(
        files=len(files) + len(others),
        looked_at=looked_at,
        taken=taken,
        rejected=rejected,
        used_by_clips=looked_at - taken - rejected,
        headers=len(headers),
        stages=tuple(stages),
        disks=disks(ctx.workspace, stages),
        snapshot=data.snapshot,
        scale=data.scale,
        weights=weights,
        released=model,
        download_bytes=_download_bytes(ctx, model) if weights is Weights.MISSING else 0,
    )
    problems = [*data.problems, *_no_step_left(ctx, whole), *_untrainable(ctx, data)]
    problems += [disk.problem for disk in whole.disks if disk.problem is not None]
    return replace(whole, problems=tuple(problems))


def _plan(ctx: Context, snapshot: Snapshot, known: int, total: int) -> PlannedData:
    if not total:
        return PlannedData(None, problems=["there are no clips in the datasets"])
    if not known:
        return PlannedData(None)
    try:
        require_trainable(ctx, snapshot)
    except NothingToTrain as error:
        # Files that nobody has looked at may still turn out well.
        return PlannedData(None, problems=[str(error)] if known == total else [])
    return PlannedData(snapshot, total / known)


def estimate_anew(
    ctx: Context, snapshot: Snapshot, released: Version | None = None, scale: float = 1.0
) -> Estimate:
    """Estimate a run that finds nothing stored, on these clips: on another machine, or of described clips.

    Args:
        released: the version to plan for; None: the recipe's model, if it is here.
        scale: files for each clip of the snapshot.
    """
    data, rates = PlannedData(snapshot, scale), Rates(ctx.workspace)
    model, weights = _model(ctx, released)
    planned = planned_context(ctx, snapshot, model)
    files = data.scaled(len(snapshot.samples) + len(snapshot.rejections))
    found = [
        StageEstimate(PROBE, files, "files"),
        *stage_estimates(planned, data, rates, Weights.NOT_ASKED),
    ]
    stages = planned_stages(planned, found, data.problems)
    return Estimate(
        files=files,
        looked_at=files,
        taken=len(snapshot.samples),
        rejected=len(snapshot.rejections),
        used_by_clips=0,
        headers=0,
        stages=tuple(stages),
        disks=disks(ctx.workspace, stages),
        problems=tuple(data.problems),
        snapshot=snapshot,
        scale=scale,
        weights=weights,
        released=model,
        download_bytes=_download_bytes(ctx, model) if weights is Weights.MISSING else 0,
    )


def planned_context(ctx: Context, snapshot: Snapshot, released: Version | None) -> Planned:
    """The context with clips and model as they are planned."""
    return Planned(ctx.workspace, ctx.recipe, ctx.datasets_file, planned=snapshot, released=released)


def planned_stages(ctx: Planned, stages: Sequence[StageEstimate], problems: list[str]) -> list[StageEstimate]:
    """The stages with memory and time on the machine that is planned for.

    Args:
        problems: is added to: a stage with work and without a plan that fits.
    """
    working = [found.stage for found in stages if found.to_do]
    plans: dict[str, MemoryPlan] = {}
    # `stage_estimates` has said already that the model is not here.
    with suppress(ModelError):
        plans, refusals = memory_plans(ctx, working)
        problems += refusals
    found = [replace(stage, memory=plans.get(stage.stage.name)) for stage in stages]
    return [_with_seconds(stage, ctx) for stage in found]


def _with_seconds(found: StageEstimate, planned: Planned | None) -> StageEstimate:
    """The seconds that were measured here, or else those that are predicted."""
    # A card that is planned for has not run anything yet.
    if found.seconds is not None and (planned_machine() is None or not found.to_do):
        return replace(found, is_measured=bool(found.to_do))
    if planned is not None:
        return replace(found, seconds=Predictor(planned).seconds(found))
    return replace(found, seconds=file_seconds(found))


def _read_headers(memo: Memo, files: Sequence[MediaFile]) -> set[str]:
    """Read the headers of some files from all over the datasets; returns their ids."""
    step = -(-len(files) // MOST_HEADERS) or 1
    some = files[::step]
    with ThreadPoolExecutor(processes_at_once()) as pool:
        list(pool.map(memo.read_header, some))
    return {file.id for file in some}


def _model(ctx: Context, released: Version | None) -> tuple[Version | None, Weights]:
    """The released version that stands in for weights that are not here; None where they are, or none can."""
    if released is not None:
        return released, Weights.NOT_ASKED
    try:
        ctx.source  # noqa: B018
    except ModelError:
        asked = ctx.recipe.model
        if not may_be_hub_id(asked.pretrained_model_name_or_path):
            return None, Weights.MISSING
        return version_asked(asked) or ASSUMED, Weights.MISSING
    return None, Weights.HERE


def _download_bytes(ctx: Context, version: Version | None) -> int:
    if version is None:
        return 0
    return released_model(version, ctx.recipe.model, ctx.workspace.models).download_bytes


def _no_step_left(ctx: Context, found: Estimate) -> list[str]:
    """Whether the epochs give no step; this is known only with the clips."""
    warmup = ctx.recipe.training.lr_warmup_steps
    steps = next(stage.to_do for stage in found.stages if stage.stage is TRAIN)
    if not steps or not warmup or steps > warmup:
        return []
    return [f"the recipe's {steps} steps leave none after lr_warmup_steps {warmup}"]


def _untrainable(ctx: Context, data: PlannedData) -> list[str]:
    """The problem of a bucket that does not fill a batch."""
    # Where clips are not known yet, one of them may fill the bucket.
    if ctx.recipe.training.train_batch_size == 1 or data.scale != 1:
        return []
    try:
        check_buckets(planned_batch_entries(ctx, data), ctx.recipe.training)
    except ValueError as error:
        return [str(error)]
    return []
