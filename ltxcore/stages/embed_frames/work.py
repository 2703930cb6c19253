"""embed-frames: the clips' own frames through CREPA's teacher into the store, committed batch by batch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ltxcore.media.decode_ahead import decode_ahead
from ltxcore.media.errors import MediaError, Undecided
from ltxcore.pipeline.base.batches import Batch, BatchWork, bucket_batches
from ltxcore.pipeline.base.clips_undecided import ClipsUndecided
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.stamp import Outcome
from ltxcore.pipeline.base.work import Assignment, Result
from ltxcore.pipeline.data.content_guard import ContentGuard
from ltxcore.pipeline.data.keys import SPACE_DIGITS
from ltxcore.stages.embed_frames.request import all_keys, quarantined
from ltxcore.stages.embed_frames.teacher_space import TeacherSpace, feature_bytes, frames_of_latents, grid_of
from ltxcore.store.bf16 import to_bits
from ltxcore.store.latents import Encoded, LatentStore
from ltxcore.store.snapshot import Sample

logger = logging.getLogger(__name__)

COMMIT_BYTES = 256 << 20
"""Features that are held in memory and committed together; a clip's may be a hundred times its latents."""


def plan_batches(ctx: Context, store: LatentStore) -> list[Batch]:
    """What is missing, bucket by bucket, in a fixed order."""
    space, width = TeacherSpace.of(ctx), ctx.teacher.width
    holes = set(store.missing(all_keys(ctx)))

    def size(sample: Sample) -> int:
        most = max(1, COMMIT_BYTES // max(1, feature_bytes(sample, width)))
        return min(ctx.recipe.encode.batch_clips, most)

    return bucket_batches(
        ctx.snapshot.buckets(),
        waits=lambda sample: not holes.isdisjoint(space.keys(sample)),
        size=size,
    )


class Embedder:
    """The teacher, loaded once, and the store that it fills."""

    def __init__(self, ctx: Context, device: str) -> None:
        from ltxcore.models.teacher_features import load_teacher
        from ltxcore.stages.embed_frames.teacher_backoff import FrameTeacher

        settings = ctx.recipe.crepa
        self.ctx = ctx
        self.space = TeacherSpace.of(ctx)
        self.guard = ContentGuard(ctx)
        self.store = LatentStore(ctx.store)
        self.teacher = FrameTeacher(
            load_teacher(ctx.teacher, device),
            settings.crepa_encoder_image_size,
            settings.crepa_encoder_batch_size,
        )
        self.embedded = 0

    def commit_batch(self, batch: Batch, on_clip: Callable[[], None]) -> None:
        """Embed what a batch misses and commit it: all of it, or, after a crash, none of it.

        Needs the caller to hold the writer's lock `latents`.

        Raises:
            ClipsUndecided: some clips could not be read for reasons that may pass; the others are committed.
        """
        done: dict[str, Encoded] = {}
        broken: dict[str, str] = {}
        undecided: dict[str, Undecided] = {}
        inputs: dict[str, dict[str, Any]] = {}
        for sample, frames in decode_ahead(batch.samples, self._decode):
            key = self.space.key(sample)
            inputs[key.value] = key.inputs
            if isinstance(frames, Undecided):
                undecided[sample.id] = frames
            elif isinstance(frames, MediaError):
                broken[key.value] = f"{sample.id}: {frames}"
            elif frames is not None and key.value not in done:
                features = self.teacher.features(frames, grid_of(sample)[1:])
                done[key.value] = Encoded(key.value, to_bits(features), key.inputs)
            on_clip()
        if done:
            self._commit(list(done.values()), batch.after)
        for error in broken.values():
            logger.warning("quarantined: %s", error)
        self.store.quarantine(broken, {key: inputs[key] for key in broken})
        if undecided:
            raise ClipsUndecided(undecided)

    def _commit(self, rows: list[Encoded], after: int) -> None:
        space = f"{self.space.teacher[:SPACE_DIGITS]}-{self.space.image_size}"
        array = self.store.array_name("teacher", space, rows[0].bits.shape)
        self.store.reserve(array, rows[0].bits.shape, len(rows) + after)
        self.store.put(array, rows)
        self.embedded += len(rows)

    def _decode(self, sample: Sample) -> np.ndarray[Any, Any] | MediaError | None:
        """The frames of the latents as encode-latents cuts and resamples them; None where it is done."""
        from ltxcore.media.decode import decode_frames
        from ltxcore.media.pictures import decode_picture

        if not self.store.missing(self.space.keys(sample)):
            return None

        def decode(path: Path) -> np.ndarray[Any, Any]:
            if sample.kind == "image":
                return decode_picture(path, sample.geometry)
            return decode_frames(path, frames_of_latents(sample.frames), sample.geometry)

        return self.guard.read(sample.dataset, sample.path, sample.media_id, decode)


class EmbedFrames(BatchWork[Embedder]):
    """The teacher's features of a snapshot that are missing."""

    doing = "frames through the teacher"
    loading, unit = "load-teacher", "embed-frames-batch"

    def __init__(self, asked: Assignment) -> None:
        self._store = LatentStore(asked.ctx.store)
        super().__init__(asked, plan_batches(asked.ctx, self._store))

    def load_models(self, device: str) -> Embedder:
        return Embedder(self.ctx, device)

    def outcome(self) -> Result:
        embedder = self.models
        store = self._store if embedder is None else embedder.store
        errors, keys = quarantined(self.ctx, store), set(all_keys(self.ctx))
        done = 0 if embedder is None else embedder.embedded
        counts = {
            "clips": len(self.ctx.snapshot.samples),
            "done": done,
            "hits": len(keys) - done - sum(store.error(key) is not None for key in keys),
            "quarantined": len(errors),
        }
        steps_down = [] if embedder is None else embedder.teacher.steps
        return Result(Outcome(counts=counts, facts={"quarantined": errors, "steps_down": steps_down}))


WORK = EmbedFrames
