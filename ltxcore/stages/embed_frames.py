"""embed-frames: the clips' own frames through CREPA's teacher into the store, committed batch by batch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from ltxcore.media.errors import MediaError
from ltxcore.media.feed import decode_ahead
from ltxcore.stages.batches import in_batches
from ltxcore.stages.context import Context
from ltxcore.stages.contract import FRAMES
from ltxcore.stages.crepa_checks import check_crepa, require_enabled
from ltxcore.stages.encode_latents import SPACE_DIGITS, Batch
from ltxcore.stages.stamp import Outcome, Stamp
from ltxcore.stages.teacher_space import TeacherSpace, feature_bytes, frames_of_latents, grid_of
from ltxcore.store.bf16 import to_bits
from ltxcore.store.latents import Encoded, LatentStore
from ltxcore.store.snapshot import Sample

logger = logging.getLogger(__name__)

COMMIT_BYTES = 256 << 20
"""Features that are held in memory and committed together; a clip's may be a hundred times its latents."""


def request(ctx: Context) -> dict[str, Any]:
    require_enabled(ctx.recipe)
    snapshot = ctx.require_snapshot(FRAMES)
    check_crepa(ctx, audio_only=all(sample.kind == "audio" for sample in snapshot.samples))
    return {"data": snapshot.data_id, **TeacherSpace.of(ctx).request()}


def present(ctx: Context, stamp: Stamp) -> bool:
    return not LatentStore(ctx.store).missing(all_keys(ctx))


def needs(ctx: Context) -> dict[str, list[str]]:
    """The keys of the store that this request stands on."""
    return {"latents": all_keys(ctx)}


def all_keys(ctx: Context) -> list[str]:
    space = TeacherSpace.of(ctx)
    return [key for sample in ctx.snapshot.samples for key in space.keys(sample)]


def plan_batches(ctx: Context, store: LatentStore) -> list[Batch]:
    """What is missing, bucket by bucket, in a fixed order."""
    space, width = TeacherSpace.of(ctx), ctx.teacher.width
    holes = set(store.missing(all_keys(ctx)))
    batches = []
    for bucket, samples in ctx.snapshot.buckets().items():
        waiting = [sample for sample in samples if not holes.isdisjoint(space.keys(sample))]
        left = len(waiting)
        most = max(1, COMMIT_BYTES // max(1, feature_bytes(samples[0], width)))
        for taken in in_batches(waiting, min(ctx.recipe.encode.batch_clips, most)):
            left -= len(taken)
            batches.append(Batch(bucket, tuple(taken), left))
    return batches


class Embedder:
    """The teacher, loaded once, and the store that it fills."""

    def __init__(self, ctx: Context, device: str) -> None:
        from ltxcore.models.teacher_features import load_teacher
        from ltxcore.stages.teacher_backoff import FrameTeacher

        settings = ctx.recipe.crepa
        self.ctx = ctx
        self.space = TeacherSpace.of(ctx)
        self.store = LatentStore(ctx.store)
        self.teacher = FrameTeacher(
            load_teacher(ctx.teacher, device),
            settings.crepa_encoder_image_size,
            settings.crepa_encoder_batch_size,
        )
        self.embedded = 0

    def embed_batch(self, batch: Batch, on_clip: Callable[[], None]) -> None:
        """Embed what a batch misses and commit it: all of it, or, after a crash, none of it.

        Needs the caller to hold the writer's lock `latents`.
        """
        done: dict[str, Encoded] = {}
        broken: dict[str, str] = {}
        inputs: dict[str, dict[str, Any]] = {}
        for sample, frames in decode_ahead(batch.samples, self._decode):
            key = self.space.key(sample)
            inputs[key.value] = key.inputs
            if isinstance(frames, MediaError):
                broken[key.value] = f"{sample.id}: {frames}"
            elif frames is not None and key.value not in done:
                features = self.teacher.features(frames, grid_of(sample)[1:])
                done[key.value] = Encoded(key.value, to_bits(features), key.inputs)
            on_clip()
        if done:
            self._commit(list(done.values()), batch.after)
        for error in broken.values():
            logger.warning("quarantined: %s", error)
        self.store.quarantine(broken, inputs)

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
        file = self.ctx.snapshot.file(sample)
        try:
            if sample.kind == "image":
                return decode_picture(file, sample.geometry)
            return decode_frames(file, frames_of_latents(sample.frames), sample.geometry)
        except MediaError as error:
            return error


def quarantined(ctx: Context, store: LatentStore) -> dict[str, str]:
    """Sample id -> why its frames could not be read."""
    space = TeacherSpace.of(ctx)
    errors = {}
    for sample in ctx.snapshot.samples:
        for key in space.keys(sample):
            if (error := store.error(key)) is not None:
                errors[sample.id] = error
    return errors


def outcome(ctx: Context, embedder: Embedder | None, store: LatentStore) -> Outcome:
    errors, keys = quarantined(ctx, store), set(all_keys(ctx))
    done = 0 if embedder is None else embedder.embedded
    broken = sum(store.error(key) is not None for key in keys)
    return Outcome(
        counts={
            "clips": len(ctx.snapshot.samples),
            "done": done,
            "hits": len(keys) - done - broken,
            "quarantined": len(errors),
        },
        facts={
            "quarantined": errors,
            "steps_down": [] if embedder is None else embedder.teacher.steps,
        },
    )
