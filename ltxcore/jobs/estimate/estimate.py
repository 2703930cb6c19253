"""What a run would do, write and take, before anything is spent: from stats, the store and old stamps."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ltxcore.execution.memory_check import memory_plans
from ltxcore.jobs.estimate.disks import Disk, disks
from ltxcore.jobs.estimate.figures import Planned, PlannedData, StageEstimate
from ltxcore.jobs.estimate.rates import Rates
from ltxcore.jobs.estimate.stage_estimates import (
    most_there_can_be,
    nothing_to_do,
    planned_batch_entries,
    stage_estimates,
)
from ltxcore.models.errors import ModelError
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import PROBE, TRAIN
from ltxcore.pipeline.data.held_out import check_datasets
from ltxcore.stages.probe_media.files_not_taken import files_not_taken
from ltxcore.stages.probe_media.media_files import find_files
from ltxcore.stages.probe_media.memo import Memo
from ltxcore.stages.probe_media.trainable import NothingToTrain, require_trainable
from ltxcore.stages.probe_media.work import make_snapshot
from ltxcore.store.snapshot import Snapshot
from ltxcore.training.batch_schedule import check_buckets


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
    stages: tuple[StageEstimate, ...]
    disks: tuple[Disk, ...]
    problems: tuple[str, ...] = ()
    """Why a run would fail although the configuration is right."""

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


def estimate(ctx: Context) -> Estimate:
    """Estimate a run of the whole pipeline. Only reads file stats and the store; it does not probe, decode or
    write.

    Raises:
        ConfigError: the datasets are wrong.
    """
    check_datasets(ctx.recipe.evaluation, ctx.datasets)
    files, memo = find_files(ctx), Memo(ctx)
    unknown = {file.id for file in memo.unknown(files)}
    known = [file for file in files if file.id not in unknown]
    others = files_not_taken(ctx, files)
    snapshot = make_snapshot(ctx, memo, known, others)
    data = _plan(ctx, snapshot, len(known), len(files))
    rates = Rates(ctx.workspace)
    probing = StageEstimate(
        PROBE, len(unknown), "files", len(known), seconds=rates.seconds(PROBE, len(unknown))
    )
    stages = [_with_reason(probing, rates)]
    if data.snapshot is None:
        stages += most_there_can_be(ctx, len(files)) if not data.problems else nothing_to_do(ctx)
    else:
        planned = Planned(ctx.workspace, ctx.recipe, ctx.datasets_file, planned=data.snapshot)
        found = [_with_reason(stage, rates) for stage in stage_estimates(planned, data, rates)]
        stages += _with_memory(planned, found, data.problems)
    taken, rejected = len(snapshot.samples), len(snapshot.rejections)
    looked_at = len(known) + len(others)
    whole = Estimate(
        files=len(files) + len(others),
        looked_at=looked_at,
        taken=taken,
        rejected=rejected,
        used_by_clips=looked_at - taken - rejected,
        stages=tuple(stages),
        disks=disks(ctx.workspace, stages),
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


def _with_memory(ctx: Planned, stages: list[StageEstimate], problems: list[str]) -> list[StageEstimate]:
    """Add each stage's memory plan; a stage without one is a problem."""
    working = [found.stage for found in stages if found.to_do]
    try:
        plans, refusals = memory_plans(ctx, working)
    except ModelError:
        # `_stages` has said already that the model is not here.
        return stages
    problems += refusals
    return [replace(found, memory=plans.get(found.stage.name)) for found in stages]


def _with_reason(found: StageEstimate, rates: Rates) -> StageEstimate:
    """Add a note on why the time of a stage with work is unknown."""
    if found.seconds is not None or not found.to_do:
        return found
    why = f"time: no earlier run of {found.stage.name} with this model on this machine"
    return replace(found, notes=(*found.notes, why))


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
