"""Tasks of probe-media."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from ltxcore.stages import probe_media as stage
from ltxcore.stages.batches import in_batches
from ltxcore.stages.context import Context
from ltxcore.stages.dataset_pages import of_snapshot, write_report
from ltxcore.stages.dataset_report import as_markdown
from ltxcore.stages.progress import Progress
from ltxcore.stages.reports import as_csv, bucket_rows, dataset_rows
from ltxcore.stages.run import StageRun
from ltxcore.stages.stamp import output_file
from ltxcore.stages.trainable import NothingToTrain, require_trainable
from ltxcore.store.blobs import write_atomic
from ltxcore.store.snapshot import Snapshot
from tasks import artifacts
from tasks.stage import only_writer, within_budget


@task(name="probe-batch", cache_policy=NO_CACHE, retries=1)
def probe_batch(memo: stage.Memo, files: Sequence[stage.MediaFile], progress: Progress) -> int:
    """Hash and probe up to 64 files and commit what was learnt."""
    return memo.probe_batch(files, progress.advance)


@task(name="plan-snapshot", cache_policy=NO_CACHE)
def plan_snapshot(ctx: Context, memo: stage.Memo, files: Sequence[stage.MediaFile]) -> Snapshot:
    """Give every file its verdict and publish the snapshot."""
    snapshot = stage.make_snapshot(ctx, memo, files)
    ctx.workspace.save_snapshot(snapshot)
    return snapshot


@task(name="report-dataset", cache_policy=NO_CACHE)
def report_dataset(ctx: Context, snapshot: Snapshot, directory: Path) -> Path:
    """The page of the dataset; it is not part of the stamp, since later stages add to it."""
    page, report = write_report(of_snapshot(ctx, snapshot.id), directory)
    artifacts.markdown("dataset", as_markdown(report), "What the dataset holds")
    artifacts.link("dataset-page", page, ctx.workspace.root, "The dataset, clip by clip")
    return page


def probe_all(run: StageRun) -> None:
    """The whole stage."""
    with only_writer(run, "media") as needed, within_budget(run):
        if not needed:
            return
        files = stage.find_files(run.ctx)
        memo = stage.Memo(run.ctx)
        unknown = memo.unknown(files)
        run.progress.begin(len(unknown), "files", "looking at new files")
        for batch in in_batches(unknown, stage.BATCH_FILES):
            probe_batch(memo, batch, run.progress)
    snapshot = plan_snapshot(run.ctx, memo, files)
    rows = dataset_rows(snapshot)
    report = run.directory / "dataset-report.csv"
    write_atomic(report, as_csv(rows))
    artifacts.table("dataset-report", rows, "Every file, its verdict and why")
    artifacts.table("buckets", bucket_rows(snapshot), "Samples of equal shape")
    page = report_dataset(run.ctx, snapshot, run.directory)
    try:
        # Only now: where nothing is left to train on, the report is what says why.
        require_trainable(run.ctx, snapshot)
    except NothingToTrain as error:
        raise NothingToTrain(f"{error}\nFile by file: {page}") from error
    outcome = stage.outcome(snapshot, len(unknown), memo.undecided)
    run.finish(outcome.model_copy(update={"files": (output_file(run.ctx.workspace, report),)}))
