"""The committed latents and text features as training's source of samples."""

from __future__ import annotations

import torch

from ltxcore.config.geometry import AUDIO_LATENTS_PER_SECOND, GEOMETRY
from ltxcore.models.predict_velocity import Reference
from ltxcore.models.text.caption_encoder import TextFeatures
from ltxcore.models.vae.audio_latents import audio_latent_length
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import FRAMES, LATENTS, TEXT, TRAIN, MissingInput
from ltxcore.pipeline.data.batch_entries import batch_entries
from ltxcore.pipeline.data.class_captions import captions_of, class_captions
from ltxcore.pipeline.data.held_out import held_out
from ltxcore.pipeline.data.keyframes import keyframe_clips
from ltxcore.pipeline.data.keys import TextSpace
from ltxcore.pipeline.data.learnable import learnable, tell_left_out
from ltxcore.pipeline.data.prompts import EMPTY
from ltxcore.stages.embed_frames.request import all_keys as embed_frames_all_keys
from ltxcore.stages.embed_frames.request import quarantined as embed_frames_quarantined
from ltxcore.stages.embed_frames.teacher_space import TeacherSpace
from ltxcore.stages.encode_latents.request import quarantined, spaces_of
from ltxcore.store.bf16 import from_bits
from ltxcore.store.latents import LatentStore
from ltxcore.store.snapshot import ConditioningClip, Sample, SoundSelection
from ltxcore.store.texts import TextStore
from ltxcore.training.batch_entry import Entry
from ltxcore.training.data import TrainingSample
from ltxcore.training.evaluation import HeldOutClip


class StoredFeatures:
    """Text features by caption."""

    def __init__(self, ctx: Context) -> None:
        self._store = TextStore(ctx.store)
        self._space = TextSpace.of(ctx.source, ctx.recipe)

    def missing(self, captions: list[str]) -> list[str]:
        """The captions whose features the store lacks."""
        return self._store.missing([self._space.key(caption).value for caption in captions])

    def load(self, caption: str) -> TextFeatures:
        """The features of a caption."""
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
        if unseen := store.missing(embed_frames_all_keys(ctx)):
            raise MissingInput(TRAIN, f"the teacher's features of {len(unseen)} clips", FRAMES)
        broken |= embed_frames_quarantined(ctx, store)
    samples = [sample for sample in snapshot.samples if sample.id not in broken]
    captions = [EMPTY, *sorted(captions_of(ctx.recipe, samples))]
    unembedded = StoredFeatures(ctx).missing(captions)
    if unembedded:
        raise MissingInput(TRAIN, f"the text features of {len(unembedded)} captions", TEXT)
    return samples


class SampleReader:
    """Reads any sample of a recipe's spaces from the store, be it of tonight's snapshot or of another."""

    def __init__(self, ctx: Context) -> None:
        self._latents = LatentStore(ctx.store)
        self._spaces = spaces_of(ctx, self._latents)
        self._features = StoredFeatures(ctx)
        self._teacher = TeacherSpace.of(ctx) if ctx.recipe.crepa.crepa_enabled else None
        self._channels: int = ctx.source.config("transformer")["in_channels"]

    def load(self, sample: Sample, caption: str) -> TrainingSample:
        """A sample with the features of a caption."""
        audio, heard, beside = None, (0, 0), sample.reference_sound
        if sample.audio is not None:
            audio = self._heard(sample, sample.audio)
            heard = heard_latents(sample.audio, len(audio))
        return TrainingSample(
            video=self._video(sample),
            audio=audio,
            audio_padding=heard[0],
            audio_valid=heard[1],
            features=self._features.load(caption),
            fps=sample.frames.fps,
            has_video=sample.kind != "audio",
            regularisation=sample.regularisation,
            references=tuple(
                Reference(self._read(shown), shown.spatial_factor, shown.temporal_factor)
                for shown in sample.references
            ),
            keyframes=tuple(
                Reference(self._read(shown), frame=frame)
                for frame, shown in keyframe_clips(sample, self._spaces.keyframes)
            ),
            reference_sound=None if beside is None else self._heard(sample, beside),
            mask=None if sample.mask is None else self._read(sample.mask),
            loss_mask=None if sample.loss_mask is None else self._read(sample.loss_mask),
            teacher=self._seen(sample),
        )

    def _read(self, shown: Sample | ConditioningClip) -> torch.Tensor:
        return from_bits(self._latents.read(self._spaces.picture_key(shown).value))

    def _heard(self, sample: Sample, sound: SoundSelection) -> torch.Tensor:
        """Latents `[L, D]` of its own sound, or of the one that is given beside it."""
        return from_bits(self._latents.read(self._spaces.audio_key(sample, sound).value))

    def _seen(self, sample: Sample) -> torch.Tensor | None:
        """The teacher's features `[F', H'·W', D]`; None without CREPA, and for sound alone."""
        if self._teacher is None or sample.kind == "audio":
            return None
        return from_bits(self._latents.read(self._teacher.key(sample).value))

    def _video(self, sample: Sample) -> torch.Tensor:
        """Latents `[C, F', H', W']`; zeros where sound is trained alone."""
        if sample.kind != "audio":
            return self._read(sample)
        shape = GEOMETRY.grid(sample.frames.count, *sample.geometry.target)
        return torch.zeros(self._channels, *shape, dtype=torch.bfloat16)


class StoredSamples:
    """A `SampleSource` on the store: nothing is computed, only read and verified."""

    def __init__(self, ctx: Context) -> None:
        """Collect the trainable samples.

        Raises:
            MissingInput: see `trainable`.
            NothingLearnt: the recipe's `conditioning` leaves nothing of any sample to learn.
        """
        samples, given = trainable(ctx), ctx.recipe.given
        self._recipe = ctx.recipe
        kept = learnable(samples, given)
        tell_left_out(samples, kept, given)
        self._samples = {sample.id: sample for sample in kept}
        self._held_out = held_out(ctx.recipe.evaluation, ctx.snapshot)
        self._reader = SampleReader(ctx)

    def entries(self) -> list[Entry]:
        """The entries of the batches: one for each sample that is not held out."""
        return batch_entries(self._samples.values(), self._held_out)

    def captions(self) -> list[str]:
        """Every caption that may be needed, including the empty one for caption dropout."""
        return [EMPTY, *sorted(captions_of(self._recipe, self._samples.values()))]

    def caption(self, sample_id: str, number: int | None) -> str:
        """The text of a sample's caption; None asks for the empty one.

        Those of the class are counted on from the sample's own ones.
        """
        if number is None:
            return EMPTY
        sample = self._samples[sample_id]
        return (*sample.captions, *class_captions(self._recipe, sample))[number]

    @property
    def reference_factors(self) -> tuple[tuple[int, int], ...]:
        """Those of each reference of a sample, the same for all samples; none where no sample has one."""
        found = (reference_factors(s) for s in self._samples.values() if s.reference is not None)
        return next(found, ())

    def held_out(self) -> list[HeldOutClip]:
        """The clips that are evaluated instead; `load` knows them too."""
        found = [s for s in self._samples.values() if s.id in self._held_out]
        return [HeldOutClip(sample.id, sample.media_id) for sample in found]

    def load(self, sample_id: str, caption: int | None) -> TrainingSample:
        """One sample with the features of a caption, counted from 0; None: the empty caption."""
        return self._reader.load(self._samples[sample_id], self.caption(sample_id, caption))


def reference_factors(sample: Sample) -> tuple[tuple[int, int], ...]:
    """How many times smaller each of a sample's references is, and how many times fewer frames a second it
    has."""
    return tuple((shown.spatial_factor, shown.temporal_factor) for shown in sample.references)


def heard_latents(plan: SoundSelection, length: int) -> tuple[int, int]:
    """First and last (exclusive) of `length` latents that are sound and no padding; at least one is."""
    last = min(length, audio_latent_length(plan.duration_s))
    if plan.heard_s is None:
        return 0, last
    first_s, last_s = plan.heard_s
    end = max(1, min(last, round(last_s * AUDIO_LATENTS_PER_SECOND)))
    return min(end - 1, round(first_s * AUDIO_LATENTS_PER_SECOND)), end
