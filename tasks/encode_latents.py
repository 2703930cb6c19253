"""Tasks of encode-latents."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from ltxcore.stages import encode_latents as stage
from ltxcore.stages.progress import Progress
from ltxcore.stages.reports import dataset_rows
from ltxcore.stages.run import StageRun
from ltxcore.store.latents import LatentStore
from tasks import artifacts
from tasks.stage import only_writer, unless_out_of_memory, within_budget


@task(name="load-vaes", cache_policy=NO_CACHE)
def load_vaes(run: StageRun) -> stage.Encoder:
    """Make both VAEs ready on the stage's device; each is loaded when it is first needed."""
    from ltxcore.memory.device import pick_device

    return stage.Encoder(run.ctx, pick_device())


@task(name="encode-batch", cache_policy=NO_CACHE, retries=1, retry_condition_fn=unless_out_of_memory)
def encode_batch(encoder: stage.Encoder, batch: stage.Batch, progress: Progress) -> None:
    """Decode, encode and commit the samples of one batch."""
    encoder.encode_batch(batch, progress.advance)


def encode_all(run: StageRun) -> None:
    """The whole stage. One process at a time hands out rows of a store."""
    with only_writer(run, "latents") as needed:
        if not needed:
            return
        store = LatentStore(run.ctx.store)
        batches = stage.plan_batches(run.ctx, store)
        clips = sum(len(batch.samples) for batch in batches)
        run.progress.begin(clips, "clips", "frames and sound to latents")
        encoder = None
        if batches:
            with within_budget(run):
                encoder = load_vaes(run)
                for batch in batches:
                    encode_batch(encoder, batch, run.progress)
            store = encoder.store
            # Latents that had to be made of tiles are part of what was made.
            run.request = stage.request(run.ctx)
        outcome = stage.outcome(run.ctx, encoder, store)
    errors = outcome.facts["quarantined"]
    if errors:
        rows = [row for row in dataset_rows(run.ctx.snapshot, errors) if row["verdict"] == "quarantined"]
        artifacts.table("quarantined", rows, "Clips that could not be encoded, and why")
    run.finish(outcome)
