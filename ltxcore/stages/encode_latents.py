"""encode-latents: frames and waveforms through both VAEs into the store, committed batch by batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ltxcore.media.errors import MediaError
from ltxcore.models.vae_ways import asked_way
from ltxcore.stages.batches import in_batches
from ltxcore.stages.context import Context
from ltxcore.stages.contract import AUDIO, LATENTS, MissingInput
from ltxcore.stages.keys import LatentSpaces, waveform_key
from ltxcore.stages.stamp import Outcome, Stamp
from ltxcore.store.bf16 import to_bits
from ltxcore.store.latents import Encoded, Kind, LatentStore
from ltxcore.store.snapshot import Sample
from ltxcore.store.waveforms import WaveformStore

logger = logging.getLogger(__name__)

SPACE_DIGITS = 12
# One clip is decoded while another is encoded; more would only hold frames in memory.
DECODE_AHEAD = 2


def request(ctx: Context) -> dict[str, Any]:
    snapshot = ctx.require_snapshot(LATENTS)
    spaces = spaces_of(ctx, LatentStore(ctx.store))
    asked = {"vae": spaces.vae, "audio_vae": spaces.audio_vae, "dtype": spaces.dtype}
    tiled = spaces.tiled(snapshot.samples)
    return {"data": snapshot.data_id, **asked, **({"tiled": tiled} if tiled else {})}


def spaces_of(ctx: Context, store: LatentStore) -> LatentSpaces:
    return LatentSpaces.of(ctx.source, ctx.recipe, store.index)


def present(ctx: Context, stamp: Stamp) -> bool:
    store = LatentStore(ctx.store)
    spaces = spaces_of(ctx, store)
    keys = [key for sample in ctx.snapshot.samples for key in spaces.keys(sample)]
    return not store.missing(keys)


@dataclass(frozen=True)
class Batch:
    """Samples of one bucket that are committed together."""

    bucket: str
    samples: tuple[Sample, ...]
    after: int
    """Samples of this bucket that come after this batch, for which room is made once."""


class Encoder:
    """Both VAEs of a model, loaded once, and the store that they fill."""

    def __init__(self, ctx: Context, device: str) -> None:
        import torch

        from ltxcore.models.loading import load_audio_vae, load_video_vae
        from ltxcore.stages.vae_backoff import VaeBackOff

        settings = ctx.recipe.encode
        dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[settings.vae_dtype]
        self.ctx = ctx
        self.store = LatentStore(ctx.store)
        self.spaces = spaces_of(ctx, self.store)
        self.waveforms = WaveformStore(ctx.store)
        self.vae = load_video_vae(ctx.source, dtype, device)
        self.vae.use_slicing = settings.vae_enable_slicing
        self.backoff = VaeBackOff(self.vae, asked_way(settings))
        self.audio_vae = load_audio_vae(ctx.source, dtype, device)
        self.encoded = {"video": 0, "audio": 0}

    def encode_batch(self, batch: Batch, on_clip: Callable[[], None]) -> None:
        """Encode what a batch misses and commit it: all of it, or, after a crash, none of it."""
        done: dict[str, Encoded] = {}
        broken: dict[str, tuple[str, dict[str, Any]]] = {}
        waiting: dict[str, tuple[Sample, np.ndarray[Any, Any]]] = {}
        for sample, frames in self._decoded(batch.samples):
            asked = self.spaces.video_key(sample)
            if isinstance(frames, MediaError):
                broken[asked.value] = (f"{sample.id}: {frames}", asked.inputs)
            elif frames is not None and asked.value not in done:
                waiting[asked.value] = sample, frames
            if len(waiting) == self.ctx.recipe.encode.vae_batch_size:
                self._encode_videos(waiting, done)
            self._encode_audio(sample, done, broken)
            on_clip()
        self._encode_videos(waiting, done)
        by_array: dict[str, list[Encoded]] = {}
        for encoded in done.values():
            by_array.setdefault(self._array(encoded), []).append(encoded)
        for array, rows in by_array.items():
            self.store.reserve(array, rows[0].bits.shape, len(rows) + batch.after)
            self.store.put(array, rows)
            self.encoded[rows[0].inputs["kind"]] += len(rows)
        for key, (error, inputs) in broken.items():
            logger.warning("quarantined: %s", error)
            self.store.quarantine(key, error, inputs)

    def _encode_videos(
        self, waiting: dict[str, tuple[Sample, np.ndarray[Any, Any]]], done: dict[str, Encoded]
    ) -> None:
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

        from ltxcore.models.audio_latents import audio_latent_length, encode_audio

        if sample.audio is None:
            return
        key = self.spaces.audio_key(sample, sample.audio)
        if key.value in done or not self.store.missing([key.value]):
            return
        waveform = waveform_key(sample.media_id, sample.audio).value
        if (error := self.waveforms.error(waveform)) is not None:
            broken[key.value] = (f"{sample.id}: {error}", key.inputs)
            return
        latents = encode_audio(
            self.audio_vae,
            torch.from_numpy(self.waveforms.read(waveform).copy()),
            audio_latent_length(sample.frames.duration_s),
        )
        done[key.value] = Encoded(key.value, to_bits(latents), key.inputs)

    def _decoded(
        self, samples: Sequence[Sample]
    ) -> Iterator[tuple[Sample, np.ndarray[Any, Any] | MediaError | None]]:
        """Each sample with its frames, an error, or None where its video latents are there already."""
        with ThreadPoolExecutor(1) as pool:
            ahead: list[tuple[Sample, Future[np.ndarray[Any, Any] | MediaError | None]]] = []
            for sample in samples:
                ahead.append((sample, pool.submit(self._decode, sample)))
                if len(ahead) >= DECODE_AHEAD:
                    first, frames = ahead.pop(0)
                    yield first, frames.result()
            for first, frames in ahead:
                yield first, frames.result()

    def _decode(self, sample: Sample) -> np.ndarray[Any, Any] | MediaError | None:
        from ltxcore.media.decode import decode_frames

        if not self.store.missing([self.spaces.video_key(sample).value]):
            return None
        try:
            return decode_frames(self.ctx.snapshot.file(sample), sample.frames, sample.geometry)
        except MediaError as error:
            return error

    def _array(self, encoded: Encoded) -> str:
        kind: Kind = encoded.inputs["kind"]
        space = f"{encoded.inputs['vae'][:SPACE_DIGITS]}-{self.spaces.dtype}"
        return self.store.array_name(kind, space, encoded.bits.shape)


def plan_batches(ctx: Context, store: LatentStore) -> list[Batch]:
    """What is missing, bucket by bucket, in a fixed order.

    Raises:
        MissingInput: a waveform that the samples need was never split.
    """
    spaces = spaces_of(ctx, store)
    missing_sound = WaveformStore(ctx.store).missing(
        waveform_key(s.media_id, s.audio).value for s in ctx.snapshot.samples if s.audio
    )
    if missing_sound:
        raise MissingInput(LATENTS, f"the waveforms of {len(missing_sound)} clips", AUDIO)
    batches = []
    size = ctx.recipe.encode.batch_clips
    for bucket, samples in ctx.snapshot.buckets().items():
        waiting = [s for s in samples if store.missing(spaces.keys(s))]
        left = len(waiting)
        for taken in in_batches(waiting, size):
            left -= len(taken)
            batches.append(Batch(bucket, tuple(taken), left))
    return batches


def quarantined(ctx: Context, store: LatentStore) -> dict[str, str]:
    """Sample id -> why it could not be encoded."""
    spaces = spaces_of(ctx, store)
    errors = {}
    for sample in ctx.snapshot.samples:
        reasons = [error for key in spaces.keys(sample) if (error := store.error(key)) is not None]
        if reasons:
            errors[sample.id] = reasons[0]
    return errors


def outcome(ctx: Context, encoder: Encoder | None, store: LatentStore) -> Outcome:
    errors = quarantined(ctx, store)
    spaces = spaces_of(ctx, store)
    keys = {key for sample in ctx.snapshot.samples for key in spaces.keys(sample)}
    encoded = {"video": 0, "audio": 0} if encoder is None else encoder.encoded
    done = encoded["video"] + encoded["audio"]
    return Outcome(
        counts={
            "clips": len(ctx.snapshot.samples),
            "video_encoded": encoded["video"],
            "audio_encoded": encoded["audio"],
            "done": done,
            "hits": len(keys) - done - sum(store.error(key) is not None for key in keys),
            "quarantined": len(errors),
        },
        facts={"quarantined": errors, "vae_steps_down": [] if encoder is None else encoder.backoff.steps},
    )
