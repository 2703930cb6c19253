"""The committed latents and text features as training's source of samples."""

from __future__ import annotations

import torch

from ltxcore.models.audio_latents import audio_latent_length
from ltxcore.models.text import TextFeatures
from ltxcore.models.versions import AUDIO_LATENTS_PER_SECOND
from ltxcore.stages import embed_frames
from ltxcore.stages.context import Context
from ltxcore.stages.contract import FRAMES, LATENTS, TEXT, TRAIN, MissingInput
from ltxcore.stages.encode_latents import quarantined, spaces_of
from ltxcore.stages.entries import entries_of
from ltxcore.stages.held_out import held_out
from ltxcore.stages.keys import TextSpace
from ltxcore.stages.learnable import learnable, tell_left_out
from ltxcore.stages.prompts import EMPTY
from ltxcore.stages.teacher_space import TeacherSpace
from ltxcore.store.bf16 import from_bits
from ltxcore.store.latents import LatentStore
from ltxcore.store.snapshot import AudioPlan, Companion, Sample
from ltxcore.store.texts import TextStore
from ltxcore.training.data import Entry, TrainingSample
from ltxcore.training.evaluation import HeldOutClip

SPATIAL_FACTOR, TEMPORAL_FACTOR = 32, 8


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
        MissingInput: a sample is neither encoded nor quarantined, a caption has no features, or, with CREPA,
            a clip has none of the teacher's.
    """
    snapshot = ctx.require_snapshot(TRAIN)
    store = LatentStore(ctx.store)
    spaces = spaces_of(ctx, store)
    holes = store.missing(key for sample in snapshot.samples for key in spaces.keys(sample))
    if holes:
        raise MissingInput(TRAIN, f"the latents of {len(holes)} tracks of clips", LATENTS)
    broken = quarantined(ctx, store)
    if ctx.recipe.crepa.crepa_enabled:
        if unseen := store.missing(embed_frames.all_keys(ctx)):
            raise MissingInput(TRAIN, f"the teacher's features of {len(unseen)} clips", FRAMES)
        broken |= embed_frames.quarantined(ctx, store)
    samples = [sample for sample in snapshot.samples if sample.id not in broken]
    captions = [EMPTY, *sorted({caption for sample in samples for caption in sample.captions})]
    unembedded = StoredFeatures(ctx).missing(captions)
    if unembedded:
        raise MissingInput(TRAIN, f"the text features of {len(unembedded)} captions", TEXT)
    return samples


class StoredSamples:
    """A `SampleSource` on the store: nothing is computed, only read and verified."""

    def __init__(self, ctx: Context) -> None:
        """Take in what can be trained on.

        Raises:
            MissingInput: see `trainable`.
            NothingLearnt: the recipe's `conditioning` leaves nothing of any sample to learn.
        """
        samples, given = trainable(ctx), ctx.recipe.given
        kept = learnable(samples, given)
        tell_left_out(samples, kept, given)
        self._samples = {sample.id: sample for sample in kept}
        self._held_out = held_out(ctx.recipe.evaluation, ctx.snapshot)
        self._latents = LatentStore(ctx.store)
        self._spaces = spaces_of(ctx, self._latents)
        self._features = StoredFeatures(ctx)
        self._teacher = TeacherSpace.of(ctx) if ctx.recipe.crepa.crepa_enabled else None
        self._channels: int = ctx.source.config("transformer")["in_channels"]

    def entries(self) -> list[Entry]:
        return entries_of(self._samples.values(), self._held_out)

    def captions(self) -> list[str]:
        """Every caption that may be asked for, the empty one of the caption dropout among them."""
        return [EMPTY, *sorted({text for sample in self._samples.values() for text in sample.captions})]

    def caption(self, sample_id: str, number: int | None) -> str:
        """The text of a sample's caption; None asks for the empty one."""
        return EMPTY if number is None else self._samples[sample_id].captions[number]

    @property
    def reference_factors(self) -> tuple[int, int] | None:
        """Those of all references, which are the same; None where no sample has one."""
        found = (reference_factors(s) for s in self._samples.values() if s.reference is not None)
        return next(found, None)

    def held_out(self) -> list[HeldOutClip]:
        """The clips that are evaluated instead; `load` knows them too."""
        found = [s for s in self._samples.values() if s.id in self._held_out]
        return [HeldOutClip(sample.id, sample.media_id) for sample in found]

    def load(self, sample_id: str, caption: int | None) -> TrainingSample:
        sample = self._samples[sample_id]
        audio, heard = None, (0, 0)
        if sample.audio is not None:
            audio = from_bits(self._latents.read(self._spaces.audio_key(sample, sample.audio).value))
            heard = heard_latents(sample.audio, len(audio))
        return TrainingSample(
            video=self._video(sample),
            audio=audio,
            audio_padding=heard[0],
            audio_valid=heard[1],
            features=self._features.load(self.caption(sample_id, caption)),
            fps=sample.frames.fps,
            has_video=sample.kind != "audio",
            regularisation=sample.regularisation,
            reference=None if sample.reference is None else self._read(sample.reference),
            reference_factors=reference_factors(sample),
            mask=None if sample.mask is None else self._read(sample.mask),
            teacher=self._seen(sample),
        )

    def _read(self, shown: Sample | Companion) -> torch.Tensor:
        return from_bits(self._latents.read(self._spaces.picture_key(shown).value))

    def _seen(self, sample: Sample) -> torch.Tensor | None:
        """The teacher's features `[F', H'·W', D]`; None without CREPA, and for sound alone."""
        if self._teacher is None or sample.kind == "audio":
            return None
        return from_bits(self._latents.read(self._teacher.key(sample).value))

    def _video(self, sample: Sample) -> torch.Tensor:
        """Latents `[C, F', H', W']`; zeros where sound is trained alone."""
        if sample.kind != "audio":
            return self._read(sample)
        width, height = sample.geometry.target
        shape = (
            (sample.frames.count - 1) // TEMPORAL_FACTOR + 1,
            height // SPATIAL_FACTOR,
            width // SPATIAL_FACTOR,
        )
        return torch.zeros(self._channels, *shape, dtype=torch.bfloat16)


def reference_factors(sample: Sample) -> tuple[int, int]:
    """How many times smaller a sample's reference is, and how many times fewer frames a second it has."""
    if sample.reference is None:
        return 1, 1
    return sample.reference.spatial_factor, sample.reference.temporal_factor


def heard_latents(plan: AudioPlan, length: int) -> tuple[int, int]:
    """First and last (exclusive) of `length` latents that are sound and no padding; at least one is."""
    last = min(length, audio_latent_length(plan.duration_s))
    if plan.heard_s is None:
        return 0, last
    first_s, last_s = plan.heard_s
    end = max(1, min(last, round(last_s * AUDIO_LATENTS_PER_SECOND)))
    return min(end - 1, round(first_s * AUDIO_LATENTS_PER_SECOND)), end
