"""The content keys of waveforms, latents and text features, each with the inputs that went into it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from ltxcore.config.conditioning_settings import Keyframes
from ltxcore.config.recipe import Recipe
from ltxcore.models.files.source import ModelSource
from ltxcore.models.vae.ways import NO_TILING, TILINGS, VaeWay, asked_way
from ltxcore.pipeline.base.contract import AUDIO, LATENTS, TEXT
from ltxcore.pipeline.data.keyframes import keyframe_clips
from ltxcore.store.fingerprint import fingerprint
from ltxcore.store.index import Index
from ltxcore.store.snapshot import ConditioningClip, FrameSelection, Sample, SoundSelection

SPACE_DIGITS = 12


@dataclass(frozen=True)
class Key:
    """A key and what it is the hash of."""

    inputs: dict[str, Any]

    @property
    def value(self) -> str:
        """40 hex digits of the inputs' hash."""
        return fingerprint(self.inputs)[:40]


def waveform_key(media_id: str, plan: SoundSelection) -> Key:
    """Sound depends on the file and on the stretch of it that belongs to the sample.

    Silence depends on its length alone, so that all clips of a length share one.
    """
    media = media_id if plan.sound is None else plan.sound.media_id
    return Key(
        {
            "kind": "waveform",
            "media": "silence" if plan.is_silence else media,
            "tracks": list(plan.tracks),
            "start_s": 0.0 if plan.is_silence else plan.start_s,
            "duration_s": plan.duration_s,
            "version": AUDIO.version,
        }
    )


def frames_shown(plan: FrameSelection) -> str:
    """Which frames, the time that each stands for, and what is done to them before they are resampled."""
    return fingerprint([plan.track, plan.fps, plan.deinterlaced, plan.on_white, *plan.indices])


@dataclass(frozen=True)
class LatentSpaces:
    """What the encoders of both VAEs contribute to the keys of latents."""

    vae: str
    audio_vae: str
    dtype: str
    way: VaeWay = field(default_factory=VaeWay)
    committed: Index | Collection[str] = ()
    """Keys that the store holds: what could only be encoded in tiles is found there under their key."""
    keyframes: Keyframes | None = None
    """The condition that gives single frames, which are encoded by themselves."""

    @classmethod
    def of(cls, source: ModelSource, recipe: Recipe, committed: Index | Collection[str] = ()) -> LatentSpaces:
        """The latent spaces of a model as a recipe encodes with it.

        Args:
            committed: keys that the store has, which decide whether a clip was encoded in tiles.
        """
        return cls(
            source.encoder_fingerprint("vae"),
            source.encoder_fingerprint("audio_vae"),
            recipe.encode.vae_dtype,
            asked_way(recipe.encode),
            committed,
            recipe.given.video.keyframes,
        )

    def video_key(self, sample: Sample | ConditioningClip, tiling: str | None = None) -> Key:
        """Frames (source index and the time each stands for), box, size, VAE, and tiles where they matter.

        Without a `tiling` the one that is committed: the recipe's own before the picture whole, and that
        before the tiles of a back-off. Where none is committed yet, the recipe's own.
        """
        inputs = {
            "kind": "video",
            "media": sample.media_id,
            "frames": frames_shown(sample.frames),
            "geometry": sample.geometry.model_dump(mode="json"),
            "vae": self.vae,
            "dtype": self.dtype,
            "version": LATENTS.version,
        }
        asked = self.way.tiling(*sample.geometry.target) if tiling is None else tiling
        first = Key({**inputs, "tiling": asked})
        if tiling is not None or first.value in self.committed:
            return first
        others = (Key({**inputs, "tiling": other}) for other in (NO_TILING, *TILINGS) if other != asked)
        return next((key for key in others if key.value in self.committed), first)

    def tiled(self, samples: Iterable[Sample]) -> dict[str, str]:
        """Id -> tiling, of the samples, references and keyframes whose latents are made of tiles."""
        shown: list[Sample | ConditioningClip] = []
        for sample in samples:
            shown += [sample, *(other for other in self.beside(sample) if not other.measured)]
        tilings = ((picture.id, self.video_key(picture).inputs["tiling"]) for picture in shown)
        return {picture_id: tiling for picture_id, tiling in tilings if tiling != NO_TILING}

    def beside(self, sample: Sample) -> tuple[ConditioningClip, ...]:
        """What is encoded beside a sample: its references, its masks and its keyframes."""
        keyframes = keyframe_clips(sample, self.keyframes)
        return (*sample.conditioning_clips, *(picture for _, picture in keyframes))

    def picture_key(self, shown: Sample | ConditioningClip) -> Key:
        """What is kept of a clip, or of what is encoded beside it."""
        if isinstance(shown, ConditioningClip) and shown.measured:
            return self.mask_key(shown)
        return self.video_key(shown)

    def mask_key(self, mask: ConditioningClip) -> Key:
        """Masks pass no VAE: they are measured in the cells of the latents."""
        return Key(
            {
                "kind": "mask",
                "media": mask.media_id,
                "frames": frames_shown(mask.frames),
                "geometry": mask.geometry.model_dump(mode="json"),
                "version": LATENTS.version,
            }
        )

    def audio_key(self, sample: Sample, plan: SoundSelection) -> Key:
        """The key of a sound's latents."""
        return Key(
            {
                "kind": "audio",
                "waveform": waveform_key(sample.media_id, plan).value,
                "vae": self.audio_vae,
                "dtype": self.dtype,
                "version": LATENTS.version,
            }
        )

    def keys(self, sample: Sample) -> list[str]:
        """All keys that a sample needs before it can be trained on."""
        keys = [self.picture_key(condition).value for condition in self.beside(sample)]
        keys += [] if sample.kind == "audio" else [self.video_key(sample).value]
        return keys + [self.audio_key(sample, sound).value for sound in sample.sounds]


@dataclass(frozen=True)
class TextSpace:
    """What the text encoder contributes to the keys of captions."""

    encoder: str
    tokenizer: str
    projection: str
    max_tokens: int
    dtype: str

    @classmethod
    def of(cls, source: ModelSource, recipe: Recipe) -> TextSpace:
        """The text features of a model as a recipe computes them."""
        return cls(
            encoder=source.fingerprint("text_encoder"),
            tokenizer=source.fingerprint("tokenizer"),
            projection=source.fingerprint("connectors"),
            max_tokens=source.text_max_tokens,
            dtype=recipe.model.text_encoder_dtype,
        )

    @property
    def arithmetic(self) -> dict[str, str]:
        """The dtype for keys and requests; bf16 is not named there, as before there was another."""
        return {} if self.dtype == "bf16" else {"text_encoder_dtype": self.dtype}

    def key(self, caption: str) -> Key:
        """The key of a caption's features."""
        return Key(
            {
                "kind": "text",
                "caption": caption,
                "encoder": self.encoder,
                "tokenizer": self.tokenizer,
                "projection": self.projection,
                "max_tokens": self.max_tokens,
                "version": TEXT.version,
                **self.arithmetic,
            }
        )
