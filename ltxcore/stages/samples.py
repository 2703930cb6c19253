"""The committed latents and text features as training's source of samples."""

from __future__ import annotations

from ltxcore.models.audio_latents import audio_latent_length
from ltxcore.models.text import TextFeatures
from ltxcore.stages.context import Context
from ltxcore.stages.contract import LATENTS, TEXT, TRAIN, MissingInput
from ltxcore.stages.encode_latents import quarantined, spaces_of
from ltxcore.stages.keys import TextSpace
from ltxcore.stages.prompts import EMPTY
from ltxcore.store.bf16 import from_bits
from ltxcore.store.latents import LatentStore
from ltxcore.store.snapshot import Sample
from ltxcore.store.texts import TextStore
from ltxcore.training.data import Entry, TrainingSample


class StoredFeatures:
    """Text features by caption."""

    def __init__(self, ctx: Context) -> None:
        self._store = TextStore(ctx.store)
        self._space = TextSpace.of(ctx.source)

    def missing(self, captions: list[str]) -> list[str]:
        return self._store.missing([self._space.key(caption).value for caption in captions])

    def load(self, caption: str) -> TextFeatures:
        row = self._store.read(self._space.key(caption).value)
        return TextFeatures(
            video=from_bits(row.video),
            audio=None if row.audio is None else from_bits(row.audio),
            truncated_from=row.truncated_from,
        )


def trainable(ctx: Context) -> list[Sample]:
    """Every sample that is not quarantined.

    Raises:
        MissingInput: a sample is neither encoded nor quarantined, or a caption has no features.
    """
    snapshot = ctx.require_snapshot(TRAIN)
    store = LatentStore(ctx.store)
    spaces = spaces_of(ctx, store)
    holes = store.missing(key for sample in snapshot.samples for key in spaces.keys(sample))
    if holes:
        raise MissingInput(TRAIN, f"the latents of {len(holes)} tracks of clips", LATENTS)
    broken = quarantined(ctx, store)
    samples = [sample for sample in snapshot.samples if sample.id not in broken]
    captions = [EMPTY, *sorted({caption for sample in samples for caption in sample.captions})]
    unembedded = StoredFeatures(ctx).missing(captions)
    if unembedded:
        raise MissingInput(TRAIN, f"the text features of {len(unembedded)} captions", TEXT)
    return samples


class StoredSamples:
    """A `SampleSource` on the store: nothing is computed, only read and verified."""

    def __init__(self, ctx: Context) -> None:
        self._samples = {sample.id: sample for sample in trainable(ctx)}
        self._latents = LatentStore(ctx.store)
        self._spaces = spaces_of(ctx, self._latents)
        self._features = StoredFeatures(ctx)

    def entries(self) -> list[Entry]:
        return [
            Entry(
                sample_id=sample.id,
                bucket=sample.bucket,
                fps=sample.frames.fps,
                has_audio=sample.audio is not None,
                captions=len(sample.captions),
                visits=sample.visits,
                probability=sample.probability,
            )
            for sample in self._samples.values()
        ]

    def load(self, sample_id: str, caption: int | None) -> TrainingSample:
        sample = self._samples[sample_id]
        audio = None
        if sample.audio is not None:
            audio = from_bits(self._latents.read(self._spaces.audio_key(sample, sample.audio).value))
        return TrainingSample(
            video=from_bits(self._latents.read(self._spaces.video_key(sample).value)),
            audio=audio,
            audio_valid=0
            if audio is None
            else min(len(audio), audio_latent_length(sample.frames.duration_s)),
            features=self._features.load(EMPTY if caption is None else sample.captions[caption]),
            fps=sample.frames.fps,
        )
