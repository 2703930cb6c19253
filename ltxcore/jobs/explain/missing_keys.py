"""Why something has to be computed: the difference between its key and the nearest stored one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.data.keys import Key, TextSpace, waveform_key
from ltxcore.pipeline.data.prompts import all_texts
from ltxcore.stages.embed_frames.teacher_space import TeacherSpace
from ltxcore.stages.encode_latents.request import spaces_of
from ltxcore.store.fingerprint import fingerprint
from ltxcore.store.latents import LatentStore
from ltxcore.store.records import Quarantined
from ltxcore.store.snapshot import ConditioningClip, Sample
from ltxcore.store.texts import TextStore
from ltxcore.store.waveforms import WaveformStore

WORDS = {
    "media": "the file's content",
    "frames": "the frames shown (frame rate, number, or their times)",
    "geometry": "size or crop",
    "vae": "VAE fingerprint",
    "dtype": "the VAE's dtype",
    "tiling": "the VAE's tiling",
    "version": "the version of the stage's code",
    "waveform": "the stretch of sound",
    "start_s": "where the sound begins",
    "duration_s": "how long the sound is",
    "caption": "the caption",
    "encoder": "text encoder fingerprint",
    "tokenizer": "tokenizer fingerprint",
    "projection": "text projection fingerprint",
    "text_encoder_dtype": "the text encoder's dtype",
    "max_tokens": "the caption's length limit",
    "teacher": "CREPA's teacher",
    "image_size": "the teacher's image size",
}
SOUND_TRACKS = (("waveform", "audio latents"), ("reference waveform", "reference audio latents"))
"""What is stored of a sample's own sound, and of the one that is given beside it."""
CONDITIONING_TRACKS = {
    "reference": "reference latents",
    "mask": "masks",
    "loss_mask": "loss masks",
    "keyframe": "keyframe latents",
}
STORED, MISSING, QUARANTINED = "stored", "missing", "quarantined"


@dataclass(frozen=True)
class Track:
    """One stored value that a clip needs."""

    what: str
    key: Key
    state: str
    why: str
    """Why it is missing or quarantined; empty where it is stored."""


class History:
    """The stored keys with their inputs, for comparison with the current keys."""

    def __init__(self, ctx: Context) -> None:
        self._latents, self._sounds = LatentStore(ctx.store), WaveformStore(ctx.store)
        self._texts = TextStore(ctx.store)
        self._spaces, self._text_space = spaces_of(ctx, self._latents), TextSpace.of(ctx.source, ctx.recipe)
        self._teacher = TeacherSpace.of(ctx) if ctx.recipe.crepa.crepa_enabled else None
        self._known: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self._lifted: dict[str, str] = {}
        """Key -> the error of a quarantine that was no verdict on the content."""
        for index in (self._latents.index, self._sounds.index, self._texts.index):
            for key, record in index.items():
                inputs = record.inputs
                if isinstance(record, Quarantined) and not record.is_verdict:
                    self._lifted[key] = record.error
                self._known.setdefault((inputs["kind"], self._subject(inputs)), []).append(inputs)

    def _subject(self, inputs: dict[str, Any]) -> str:
        """The subject of a key: a media id, or a caption's fingerprint."""
        if inputs["kind"] != "audio":
            return str(inputs.get("media", inputs.get("caption")))
        waveform = self._sounds.index.get(inputs["waveform"])
        return "" if waveform is None else str(waveform.inputs["media"])

    def tracks(self, sample: Sample) -> list[Track]:
        """Every stored value that a sample needs before it can be trained on."""
        found = []
        for condition in self._spaces.beside(sample):
            key = self._spaces.picture_key(condition)
            found.append(self._latent(CONDITIONING_TRACKS[condition.purpose], key, condition))
        if sample.kind != "audio":
            found.append(self._latent("video latents", self._spaces.video_key(sample), sample))
            if self._teacher is not None:
                found.append(self._latent("teacher features", self._teacher.key(sample), sample))
        for what, sound in zip(SOUND_TRACKS, (sample.audio, sample.reference_sound), strict=True):
            if sound is None:
                continue
            waveform = waveform_key(sample.media_id, sound)
            missing = bool(self._sounds.missing([waveform.value]))
            error = self._sounds.error(waveform.value)
            found.append(self._track(what[0], waveform, missing, error, sample.media_id))
            found.append(self._latent(what[1], self._spaces.audio_key(sample, sound), sample))
        return found + [self.caption(caption) for caption in sample.captions]

    def _latent(self, what: str, key: Key, sample: Sample | ConditioningClip) -> Track:
        missing = bool(self._latents.missing([key.value]))
        return self._track(what, key, missing, self._latents.error(key.value), sample.media_id)

    def caption(self, caption: str) -> Track:
        """The text features of a caption or prompt."""
        key = self._text_space.key(caption)
        missing = bool(self._texts.missing([key.value]))
        return self._track("text features", key, missing, None, fingerprint(caption))

    def _track(self, what: str, key: Key, missing: bool, error: str | None, subject: str) -> Track:
        if error is not None:
            return Track(what, key, QUARANTINED, error)
        if not missing:
            return Track(what, key, STORED, "")
        return Track(what, key, MISSING, self.why(key, subject))

    def why(self, key: Key, subject: str) -> str:
        """What has changed since the nearest key of the same subject was stored."""
        if key.value in self._lifted:
            return f"its quarantine is lifted, since it was no verdict on the file: {self._lifted[key.value]}"
        known = self._known.get((key.inputs["kind"], subject), [])
        if not known:
            return "new: nothing was made of it before"
        nearest = min((_changed(inputs, key.inputs) for inputs in known), key=len)
        if not nearest:
            return "its bytes are gone from the store"
        return "changed: " + ", ".join(WORDS.get(name, name) for name in nearest)


def _changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    # A caption stands in the index as its fingerprint, which has been found equal by then.
    names = (before.keys() | now.keys()) - {"kind", "caption"}
    return sorted(name for name in names if before.get(name) != now.get(name))


def count_reasons(tracks: Iterable[Track]) -> list[str]:
    """Counts such as `14 video latents: changed: VAE fingerprint`, the most frequent first.

    Each key counts once.
    """
    missing = {track.key.value: (track.what, track.why) for track in tracks if track.state == MISSING}
    counted = Counter(missing.values())
    return [f"{count} {what}: {why}" for (what, why), count in counted.most_common()]


def all_tracks(ctx: Context) -> list[Track]:
    """Every stored value that the snapshot and the recipe need."""
    history = History(ctx)
    tracks = [track for sample in ctx.snapshot.samples for track in history.tracks(sample)]
    return tracks + [history.caption(text) for text in all_texts(ctx.recipe, ctx.snapshot)]
