"""encode-latents: frames and waveforms through both VAEs into the store, committed batch by batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ltxcore.media.decode_ahead import decode_ahead
from ltxcore.media.errors import MediaError, Undecided
from ltxcore.media.masks import white_shares
from ltxcore.models.vae.ways import asked_way
from ltxcore.pipeline.base.batches import Batch, BatchWork, bucket_batches
from ltxcore.pipeline.base.clips_undecided import ClipsUndecided
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import AUDIO, LATENTS, MissingInput
from ltxcore.pipeline.base.stamp import Outcome
from ltxcore.pipeline.base.work import Assignment, Result
from ltxcore.pipeline.data.content_guard import ContentGuard
from ltxcore.pipeline.data.keys import SPACE_DIGITS, Key, LatentSpaces, waveform_key
from ltxcore.stages.encode_latents.memory import vae_room
from ltxcore.stages.encode_latents.request import all_keys, quarantined, request, spaces_of
from ltxcore.store.bf16 import to_bits
from ltxcore.store.latents import Encoded, Kind, LatentStore
from ltxcore.store.snapshot import ConditioningClip, Sample
from ltxcore.store.waveforms import WaveformStore

if TYPE_CHECKING:
    from ltxcore.stages.encode_latents.vae_backoff import VaeBackOff

logger = logging.getLogger(__name__)


Waiting = dict[str, tuple[Sample | ConditioningClip, np.ndarray[Any, Any]]]
"""Key -> clip or reference and its frames, all of one size."""


class Encoder:
    """Both VAEs of a model, each loaded once when it is first needed, and the store that they fill."""

    def __init__(self, ctx: Context, device: str) -> None:
        from ltxcore.models.torch_types import torch_type

        self.dtype = torch_type(ctx.recipe.encode.vae_dtype)
        self.ctx = ctx
        self.store = LatentStore(ctx.store)
        self.guard = ContentGuard(ctx)
        self.spaces = spaces_of(ctx, self.store)
        self.waveforms = WaveformStore(ctx.store)
        self.device = device
        self.encoded = {"video": 0, "audio": 0}
        # Measured before anything loads: later the weights themselves would count against what is free.
        self.room = vae_room(ctx, device)

    @cached_property
    def vae(self) -> Any:
        """The video VAE; not loaded where sound alone is trained."""
        from ltxcore.models.files.loading import load_video_vae

        vae = load_video_vae(self.ctx.source, self.dtype, self.device)
        vae.use_slicing = self.ctx.recipe.encode.vae_enable_slicing
        return vae

    @cached_property
    def backoff(self) -> VaeBackOff:
        """Runs clips through the video VAE: as the recipe asks, or in smaller pieces if memory runs out."""
        from ltxcore.stages.encode_latents.vae_backoff import VaeBackOff

        return VaeBackOff(self.vae, asked_way(self.ctx.recipe.encode), self.room)

    @cached_property
    def audio_vae(self) -> Any:
        """The audio VAE; not loaded where no sound is trained."""
        from ltxcore.models.files.loading import load_audio_vae

        return load_audio_vae(self.ctx.source, self.dtype, self.device)

    def commit_batch(self, batch: Batch, on_clip: Callable[[], None]) -> None:
        """Encode what a batch misses and commit it: all of it, or, after a crash, none of it.

        Needs the caller to hold the writer's lock `latents`.

        Raises:
            ClipsUndecided: ffmpeg was stopped at some clips; the others are committed.
        """
        undecided: dict[str, Undecided] = {}
        done: dict[str, Encoded] = {}
        broken: dict[str, tuple[str, dict[str, Any]]] = {}
        waiting: Waiting = {}
        for shown, frames in self._decoded(shown_by(batch.samples, self.spaces)):
            asked = self.spaces.picture_key(shown)
            if isinstance(frames, Undecided):
                undecided[shown.id] = frames
            elif isinstance(frames, MediaError):
                broken[asked.value] = (f"{shown.id}: {frames}", asked.inputs)
            elif frames is not None and asked.value not in done:
                self._take(shown, frames, asked, waiting, done)
            if isinstance(shown, Sample):
                self._encode_audio(shown, done, broken)
                on_clip()
        self._encode_videos(waiting, done)
        by_array: dict[str, list[Encoded]] = {}
        for encoded in done.values():
            by_array.setdefault(self._array(encoded), []).append(encoded)
        for array, rows in by_array.items():
            self.store.reserve(array, rows[0].bits.shape, len(rows) + batch.after)
            self.store.put(array, rows)
            kind = rows[0].inputs["kind"]
            self.encoded[kind] = self.encoded.get(kind, 0) + len(rows)
        for error, _ in broken.values():
            logger.warning("quarantined: %s", error)
        self.store.quarantine(
            {key: error for key, (error, _) in broken.items()},
            {key: inputs for key, (_, inputs) in broken.items()},
        )
        if undecided:
            raise ClipsUndecided(undecided)

    def _take(
        self,
        shown: Sample | ConditioningClip,
        frames: np.ndarray[Any, Any],
        asked: Key,
        waiting: Waiting,
        done: dict[str, Encoded],
    ) -> None:
        """Measure a mask; let other pictures wait until a batch of one size goes through the VAE."""
        if isinstance(shown, ConditioningClip) and shown.measured:
            import torch

            bits = to_bits(torch.from_numpy(white_shares(frames, shown.frames.count)))
            done[asked.value] = Encoded(asked.value, bits, asked.inputs)
            return
        if any(others.shape != frames.shape for _, others in waiting.values()):
            self._encode_videos(waiting, done)
        waiting[asked.value] = shown, frames
        if len(waiting) == self.ctx.recipe.encode.vae_batch_size:
            self._encode_videos(waiting, done)

    def _encode_videos(self, waiting: Waiting, done: dict[str, Encoded]) -> None:
        """Encode clips of one size together. Those that had to be tiled get the key of that tiling."""
        if not waiting:
            return
        samples, clips = zip(*waiting.values(), strict=True)
        waiting.clear()
        for sample, (latents, way) in zip(samples, self.backoff.encode(clips), strict=True):
            key = self.spaces.video_key(sample, way.tiling(*sample.geometry.target))
            done[key.value] = Encoded(key.value, to_bits(latents), key.inputs)

    def _encode_audio(
        self, sample: Sample, done: dict[str, Encoded], broken: dict[str, tuple[str, dict[str, Any]]]
    ) -> None:
        import torch

        from ltxcore.models.vae.audio_latents import audio_latent_length, encode_audio

        for sound in sample.sounds:
            key = self.spaces.audio_key(sample, sound)
            if key.value in done or not self.store.missing([key.value]):
                continue
            waveform = waveform_key(sample.media_id, sound).value
            if (error := self.waveforms.error(waveform)) is not None:
                broken[key.value] = (f"{sample.id}: {error}", key.inputs)
                continue
            latents = encode_audio(
                self.audio_vae,
                torch.from_numpy(self.waveforms.read(waveform).copy()),
                audio_latent_length(sound.duration_s),
            )
            done[key.value] = Encoded(key.value, to_bits(latents), key.inputs)

    def _decoded(
        self, pictures: Sequence[Sample | ConditioningClip]
    ) -> Iterator[tuple[Sample | ConditioningClip, np.ndarray[Any, Any] | MediaError | None]]:
        """Each sample with its frames, an error, or None if its latents are stored already."""
        return decode_ahead(pictures, self._decode)

    def _decode(self, sample: Sample | ConditioningClip) -> np.ndarray[Any, Any] | MediaError | None:
        from ltxcore.media.decode import decode_frames
        from ltxcore.media.pictures import decode_picture

        if sample.kind == "audio" or not self.store.missing([self.spaces.picture_key(sample).value]):
            return None

        def decode(path: Path) -> np.ndarray[Any, Any]:
            if sample.kind == "image":
                return decode_picture(path, sample.geometry)
            return decode_frames(path, sample.frames, sample.geometry)

        return self.guard.read(sample.dataset, sample.path, sample.media_id, decode)

    def _array(self, encoded: Encoded) -> str:
        kind: Kind = encoded.inputs["kind"]
        # Masks belong to no VAE.
        space = f"{encoded.inputs['vae'][:SPACE_DIGITS]}-{self.spaces.dtype}" if kind != "mask" else "cells"
        return self.store.array_name(kind, space, encoded.bits.shape)


def shown_by(samples: Sequence[Sample], spaces: LatentSpaces) -> list[Sample | ConditioningClip]:
    """The samples, and then what is encoded beside them, sizes together."""
    conditioning_clips = [condition for sample in samples for condition in spaces.beside(sample)]
    return [
        *samples,
        *sorted(conditioning_clips, key=lambda c: (c.purpose, c.geometry.target, c.frames.count, c.id)),
    ]


def plan_batches(ctx: Context, store: LatentStore) -> list[Batch]:
    """What is missing, bucket by bucket, in a fixed order.

    Raises:
        MissingInput: a waveform that the samples need was never split.
    """
    spaces = spaces_of(ctx, store)
    missing_sound = WaveformStore(ctx.store).missing(
        waveform_key(s.media_id, sound).value for s in ctx.snapshot.samples for sound in s.sounds
    )
    if missing_sound:
        raise MissingInput(LATENTS, f"the waveforms of {len(missing_sound)} clips", AUDIO)
    holes = set(store.missing(all_keys(ctx, store)))
    return bucket_batches(
        ctx.snapshot.buckets(),
        waits=lambda sample: not holes.isdisjoint(spaces.keys(sample)),
        size=lambda sample: ctx.recipe.encode.batch_clips,
    )


class EncodeLatents(BatchWork[Encoder]):
    """The latents of a snapshot that are missing, of both VAEs."""

    doing = "frames and sound to latents"
    loading, unit = "load-vaes", "encode-batch"

    def __init__(self, asked: Assignment) -> None:
        self._store = LatentStore(asked.ctx.store)
        super().__init__(asked, plan_batches(asked.ctx, self._store))

    def load_models(self, device: str) -> Encoder:
        return Encoder(self.ctx, device)

    def outcome(self) -> Result:
        encoder = self.models
        store = self._store if encoder is None else encoder.store
        errors = quarantined(self.ctx, store)
        keys = set(all_keys(self.ctx, store))
        encoded = {"video": 0, "audio": 0} if encoder is None else encoder.encoded
        done = sum(encoded.values())
        counts = {
            "clips": len(self.ctx.snapshot.samples),
            "video_encoded": encoded["video"],
            "audio_encoded": encoded["audio"],
            "masks": encoded.get("mask", 0),
            "done": done,
            "hits": len(keys) - done - sum(store.error(key) is not None for key in keys),
            "quarantined": len(errors),
        }
        steps_down = [] if encoder is None else encoder.backoff.steps
        outcome = Outcome(counts=counts, facts={"quarantined": errors, "vae_steps_down": steps_down})
        # Latents that had to be made of tiles are part of what was made.
        return Result(outcome, None if encoder is None else request(self.ctx))


WORK = EncodeLatents
