"""Tasks of split-audio."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import task
from prefect.cache_policies import NO_CACHE

from ltxcore.stages import split_audio as stage
from ltxcore.stages.batches import in_batches
from ltxcore.stages.context import Context
from ltxcore.stages.progress import Progress
from ltxcore.stages.run import StageRun
from ltxcore.store.snapshot import Sample
from ltxcore.store.waveforms import WaveformStore
from tasks.stage import only_writer, within_budget


@task(name="split-batch", cache_policy=NO_CACHE, retries=1)
def split_batch(ctx: Context, store: WaveformStore, samples: Sequence[Sample], progress: Progress) -> None:
    """Decode the sound of up to 64 clips and commit it."""
    stage.split_batch(ctx, store, samples, progress.advance)


def split_all(run: StageRun) -> None:
    """The whole stage."""
    with only_writer(run, "audio") as needed:
        if not needed:
            return
        store = WaveformStore(run.ctx.store)
        waiting = stage.to_do(run.ctx, store)
        run.progress.begin(len(waiting), "clips", "cutting sound at the frames")
        with within_budget(run):
            for batch in in_batches(waiting, stage.BATCH_CLIPS):
                split_batch(run.ctx, store, batch, run.progress)
        run.finish(stage.outcome(run.ctx, store, len(waiting)))
