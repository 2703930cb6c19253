"""What a run would do, write and take, before anything is spent: from stats, the store and old stamps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ltxcore.models.errors import ModelError
from ltxcore.stages.context import Context
from ltxcore.stages.contract import PROBE, TRAIN
from ltxcore.stages.disks import Disk, disks
from ltxcore.stages.held_out import check_datasets
from ltxcore.stages.memory_check import memory_plans
from ltxcore.stages.probe_media import MediaFile, Memo, find_files, make_snapshot
from ltxcore.stages.rates import Rates
from ltxcore.stages.stage_estimates import (
    Planned,
    PlannedData,
    StageEstimate,
    most_there_can_be,
    nothing_to_do,
    planned_entries,
    stage_estimates,
)
from ltxcore.stages.trainable import NothingToTrain, require_trainable
from ltxcore.training.extras import require_optimizer


@dataclass(frozen=True)
class Estimate:
    """A run, stage by stage."""

    files: int
    looked_at: int
    taken: int
    rejected: int
    stages: tuple[StageEstimate, ...]
    disks: tuple[Disk, ...]
    problems: tuple[str, ...] = ()
    """Why a run would fail although the configuration is right."""

    @property
    def disk_bytes(self) -> int:
        return sum(stage.disk_bytes or 0 for stage in self.stages)

    @property
    def seconds(self) -> float | None:
        """The sum, or None where a stage with work has no rate."""
        working = [stage for stage in self.stages if stage.to_do != 0]
        known = [stage.seconds for stage in working if stage.seconds is not None]
        return sum(known) if len(known) == len(working) else None


def estimate(ctx: Context) -> Estimate:
    """Estimate a run of the whole pipeline. Reads stats and the store; probes, decodes and writes nothing.

    Raises:
        ConfigError: the datasets are wrong.
    """
    check_datasets(ctx.recipe.evaluation, ctx.datasets)
    files, memo = find_files(ctx), Memo(ctx)
    unknown = {file.id for file in memo.unknown(files)}
    known = [file for file in files if file.id not in unknown]
    data = _plan(ctx, memo, known, len(files))
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
    whole = Estimate(
        files=len(files),
        looked_at=len(known),
        taken=len(data.samples),
        rejected=0 if data.snapshot is None else len(data.snapshot.rejections),
        stages=tuple(stages),
        disks=disks(ctx.workspace, stages),
    )
    problems = [*data.problems, *_no_step_left(ctx, whole), *_untrainable(ctx, data)]
    problems += [disk.problem for disk in whole.disks if disk.problem is not None]
    return replace(whole, problems=tuple(problems))


def _plan(ctx: Context, memo: Memo, known: Sequence[MediaFile], total: int) -> PlannedData:
    if not total:
        return PlannedData(None, problems=["there are no clips in the datasets"])
    if not known:
        return PlannedData(None)
    try:
        snapshot = make_snapshot(ctx, memo, known)
        require_trainable(ctx, snapshot)
    except NothingToTrain as error:
        # Files that nobody has looked at may still turn out well.
        return PlannedData(None, problems=[str(error)] if len(known) == total else [])
    return PlannedData(snapshot, total / len(known))


def _with_memory(ctx: Planned, stages: list[StageEstimate], problems: list[str]) -> list[StageEstimate]:
    """Add each stage's memory plan; what has none is a problem."""
    working = [found.stage for found in stages if found.to_do]
    try:
        plans, refusals = memory_plans(ctx, working)
    except ModelError:
        # `_stages` has said already that the model is not here.
        return stages
    problems += refusals
    return [replace(found, memory=plans.get(found.stage.name)) for found in stages]


def _with_reason(found: StageEstimate, rates: Rates) -> StageEstimate:
    """Say why there is no time, where there is work."""
    if found.seconds is not None or not found.to_do:
        return found
    why = f"time: no earlier run of {found.stage.name} with this model on this machine"
    return replace(found, notes=(*found.notes, why))


def _no_step_left(ctx: Context, found: Estimate) -> list[str]:
    """Epochs only turn out to be too few when the clips are known."""
    warmup = ctx.recipe.training.lr_warmup_steps
    steps = next(stage.to_do for stage in found.stages if stage.stage is TRAIN)
    if not steps or not warmup or steps > warmup:
        return []
    return [f"the recipe's {steps} steps leave none after lr_warmup_steps {warmup}"]


def _untrainable(ctx: Context, data: PlannedData) -> list[str]:
    """An optimizer that is not installed, or a bucket that does not fill a batch."""
    settings = ctx.recipe.training
    try:
        require_optimizer(settings.optimizer)
        # Where clips are not known yet, one of them may fill the bucket.
        if settings.train_batch_size != 1 and data.scale == 1:
            from ltxcore.training.plan import check_buckets

            check_buckets(planned_entries(ctx, data), settings)
    except ValueError as error:
        return [str(error)]
    return []
