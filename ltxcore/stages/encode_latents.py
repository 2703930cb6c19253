"""encode-latents: frames and waveforms through both VAEs into the store, committed batch by batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ltxcore.media.errors import MediaError, Undecided
from ltxcore.media.feed import decode_ahead
from ltxcore.media.masks import white_shares
from ltxcore.models.vae_ways import asked_way
from ltxcore.stages.batches import in_batches
from ltxcore.stages.context import Context
from ltxcore.stages.contract import AUDIO, LATENTS, MissingInput
from ltxcore.stages.keys import Key, LatentSpaces, waveform_key
from ltxcore.stages.memory_plans import vae_room
from ltxcore.stages.stamp import Outcome, Stamp
from ltxcore.stages.undecided import ClipsUndecided
from ltxcore.store.bf16 import to_bits
from ltxcore.store.latents import Encoded, Kind, LatentStore
from ltxcore.store.snapshot import Companion, Sample
from ltxcore.store.waveforms import WaveformStore

if TYPE_CHECKING:
    from ltxcore.stages.vae_backoff import VaeBackOff

logger = logging.getLogger(__name__)

SPACE_DIGITS = 12

Waiting = dict[str, tuple[Sample | Companion, np.ndarray[Any, Any]]]
"""Key -> clip or reference and its frames, all of one size."""


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
    return not store.missing(all_keys(ctx, store))


def needs(ctx: Context) -> dict[str, list[str]]:
    """The keys of the store that this request stands on."""
    return {"latents": all_keys(ctx, LatentStore(ctx.store))}


def all_keys(ctx: Context, store: LatentStore) -> list[str]:
    spaces = spaces_of(ctx, store)
    return [key for sample in ctx.snapshot.samples for key in spaces.keys(sample)]


@dataclass(frozen=True)
class Batch:
    """Samples of one bucket that are committed together."""

    bucket: str
    samples: tuple[Sample, ...]
    after: int
    """Samples of this bucket that come after this batch, for which room is made once."""


class Encoder:
    """Both VAEs of a model, each loaded once when it is first needed, and the store that they fill."""

    def __init__(self, ctx: Context, device: str) -> None:
        import torch

        self.dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[ctx.recipe.encode.vae_dtype]
        self.ctx = ctx
        self.store = LatentStore(ctx.store)
        self.spaces = spaces_of(ctx, self.store)
        self.waveforms = WaveformStore(ctx.store)
        self.device = device
        self.encoded = {"video": 0, "audio": 0}
        # Measured before anything loads: later the weights themselves would count against what is free.
        self.room = vae_room(ctx, device)

    @cached_property
    def vae(self) -> Any:
        """The video VAE; not loaded where sound alone is trained."""
        from ltxcore.models.loading import load_video_vae

        vae = load_video_vae(self.ctx.source, self.dtype, self.device)
        vae.use_slicing = self.ctx.recipe.encode.vae_enable_slicing
        return vae

    @cached_property
    def backoff(self) -> VaeBackOff:
        """How clips go through the video VAE: as the recipe asks, or in smaller pieces where memory ends."""
        from ltxcore.stages.vae_backoff import VaeBackOff

        return VaeBackOff(self.vae, asked_way(self.ctx.recipe.encode), self.room)

    @cached_property
    def audio_vae(self) -> Any:
        """The audio VAE; not loaded where no sound is trained."""
        from ltxcore.models.loading import load_audio_vae

        return load_audio_vae(self.ctx.source, self.dtype, self.device)

    def encode_batch(self, batch: Batch, on_clip: Callable[[], None]) -> None:
        """Encode what a batch misses and commit it: all of it, or, after a crash, none of it.

        Needs the caller to hold the writer's lock `latents`.

        Raises:
            ClipsUndecided: ffmpeg was stopped at some clips; the others are committed.
        """
        undecided: dict[str, str] = {}
        done: dict[str, Encoded] = {}
        broken: dict[str, tuple[str, dict[str, Any]]] = {}
        waiting: Waiting = {}
        for shown, frames in self._decoded(shown_by(batch.samples)):
            asked = self.spaces.picture_key(shown)
            if isinstance(frames, Undecided):
                undecided[shown.id] = str(frames)
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
        shown: Sample | Companion,
        frames: np.ndarray[Any, Any],
        asked: Key,
        waiting: Waiting,
        done: dict[str, Encoded],
    ) -> None:
        """Measure a mask; let other pictures wait until a batch of one size goes through the VAE."""
        if isinstance(shown, Companion) and shown.purpose == "mask":
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
            audio_latent_length(sample.audio.duration_s),
        )
        done[key.value] = Encoded(key.value, to_bits(latents), key.inputs)

    def _decoded(
        self, pictures: Sequence[Sample | Companion]
    ) -> Iterator[tuple[Sample | Companion, np.ndarray[Any, Any] | MediaError | None]]:
        """Each with its frames, an error, or None where what is made of them is there already."""
        return decode_ahead(pictures, self._decode)

    def _decode(self, sample: Sample | Companion) -> np.ndarray[Any, Any] | MediaError | None:
        from ltxcore.media.decode import decode_frames
        from ltxcore.media.pictures import decode_picture

        if sample.kind == "audio" or not self.store.missing([self.spaces.picture_key(sample).value]):
            return None
        try:
            if sample.kind == "image":
                return decode_picture(self.ctx.snapshot.file(sample), sample.geometry)
            return decode_frames(self.ctx.snapshot.file(sample), sample.frames, sample.geometry)
        except MediaError as error:
            return error

    def _array(self, encoded: Encoded) -> str:
        kind: Kind = encoded.inputs["kind"]
        # Masks belong to no VAE.
        space = f"{encoded.inputs['vae'][:SPACE_DIGITS]}-{self.spaces.dtype}" if kind != "mask" else "cells"
        return self.store.array_name(kind, space, encoded.bits.shape)


def shown_by(samples: Sequence[Sample]) -> list[Sample | Companion]:
    """The samples, and then what belongs to them, sizes together."""
    companions = [companion for sample in samples for companion in sample.companions]
    return [*samples, *sorted(companions, key=lambda c: (c.purpose, c.geometry.target, c.frames.count, c.id))]


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
    holes = set(store.missing(all_keys(ctx, store)))
    batches = []
    size = ctx.recipe.encode.batch_clips
    for bucket, samples in ctx.snapshot.buckets().items():
        waiting = [s for s in samples if not holes.isdisjoint(spaces.keys(s))]
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
    keys = set(all_keys(ctx, store))
    encoded = {"video": 0, "audio": 0} if encoder is None else encoder.encoded
    done = sum(encoded.values())
    return Outcome(
        counts={
            "clips": len(ctx.snapshot.samples),
            "video_encoded": encoded["video"],
            "audio_encoded": encoded["audio"],
            "masks": encoded.get("mask", 0),
            "done": done,
            "hits": len(keys) - done - sum(store.error(key) is not None for key in keys),
            "quarantined": len(errors),
        },
        facts={"quarantined": errors, "vae_steps_down": [] if encoder is None else encoder.backoff.steps},
    )
