"""Tasks of embed-text."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import task
from prefect.cache_policies import NO_CACHE

from ltxcore.stages import embed_text as stage
from ltxcore.stages.run import StageRun
from ltxcore.store.texts import TextStore
from tasks.stage import only_writer, unless_out_of_memory, within_budget


@task(name="load-text-encoder", cache_policy=NO_CACHE)
def load_text_encoder(run: StageRun) -> stage.Embedder:
    """Load Gemma's text tower and the feature extractor on the stage's device."""
    from ltxcore.memory.device import pick_device

    return stage.Embedder(run.ctx, pick_device())


@task(name="embed-batch", cache_policy=NO_CACHE, retries=1, retry_condition_fn=unless_out_of_memory)
def embed_batch(embedder: stage.Embedder, captions: Sequence[str]) -> int:
    """Embed a batch of captions and commit them as one Arrow file."""
    return embedder.embed_batch(captions)


def embed_all(run: StageRun) -> None:
    """The whole stage."""
    with only_writer(run, "text") as needed:
        if not needed:
            return
        waiting = stage.to_do(run.ctx, TextStore(run.ctx.store))
        run.progress.begin(len(waiting), "captions", "captions through Gemma")
        cut = 0
        if waiting:
            with within_budget(run):
                embedder = load_text_encoder(run)
                for batch in embedder.batches(waiting):
                    cut += embed_batch(embedder, batch)
                    run.progress.advance(len(batch))
        run.finish(stage.outcome(run.ctx, len(waiting), cut))
