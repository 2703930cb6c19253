"""Tasks of embed-frames."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from ltxcore.stages import embed_frames as stage
from ltxcore.stages.encode_latents import Batch
from ltxcore.stages.progress import Progress
from ltxcore.stages.reports import dataset_rows
from ltxcore.stages.run import StageRun
from ltxcore.store.latents import LatentStore
from tasks import artifacts
from tasks.stage import only_writer, unless_out_of_memory, within_budget


@task(name="load-teacher", cache_policy=NO_CACHE)
def load_teacher(run: StageRun) -> stage.Embedder:
    """Load the teacher on the stage's device."""
    from ltxcore.memory.device import pick_device

    return stage.Embedder(run.ctx, pick_device())


@task(name="embed-frames-batch", cache_policy=NO_CACHE, retries=1, retry_condition_fn=unless_out_of_memory)
def embed_batch(embedder: stage.Embedder, batch: Batch, progress: Progress) -> None:
    """Decode, embed and commit the frames of one batch of clips."""
    embedder.embed_batch(batch, progress.advance)


def embed_all(run: StageRun) -> None:
    """The whole stage. Its features are rows of the same store as latents, with one writer at a time."""
    with only_writer(run, "latents") as needed:
        if not needed:
            return
        store = LatentStore(run.ctx.store)
        batches = stage.plan_batches(run.ctx, store)
        run.progress.begin(
            sum(len(batch.samples) for batch in batches), "clips", "frames through the teacher"
        )
        embedder = None
        if batches:
            with within_budget(run):
                embedder = load_teacher(run)
                for batch in batches:
                    embed_batch(embedder, batch, run.progress)
            store = embedder.store
        outcome = stage.outcome(run.ctx, embedder, store)
    errors = outcome.facts["quarantined"]
    if errors:
        rows = [row for row in dataset_rows(run.ctx.snapshot, errors) if row["verdict"] == "quarantined"]
        artifacts.table("quarantined-frames", rows, "Clips whose frames could not be read, and why")
    run.finish(outcome)
