"""A snapshot: the immutable result of probe-media, which every later stage reads.

It lists each file of the datasets once, as a sample with everything needed to decode it or as a rejection
with a reason. Its id is a hash of its content, so equal data gives an equal id on any machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from ltxcore.config.base import Strict
from ltxcore.config.bucket_list import Bucket, audio_bucket_name, bucket_name
from ltxcore.store.fingerprint import fingerprint


class FrameSelection(Strict):
    """Which source frames a sample shows: one source index for each output frame, in order."""

    indices: tuple[int, ...]
    times: tuple[int, ...] = ()
    """The timestamp of each in ticks of the file; empty where the file itself shall be asked."""
    track: int | None = None
    """The place of the picture track in the file; None: the one that a player plays."""
    fps: float
    start_s: float
    """Presentation time of the first frame, on the container's clock."""
    deinterlaced: bool | Literal["tff", "bff"] = False
    """Whether frames that are made of two fields are made whole; the order of the fields where the frames do
    not say that they have any."""
    on_white: bool = False
    """Whether what can be seen through is shown on white."""

    @property
    def count(self) -> int:
        """How many frames are taken."""
        return len(self.indices)

    @property
    def duration_s(self) -> float:
        """Seconds that the frames last."""
        return self.count / self.fps

    def only(self, positions: Iterable[int]) -> FrameSelection:
        """The selection of some of its frames."""
        chosen = tuple(positions)
        indices, times = (
            tuple(values[at] for at in chosen) if values else () for values in (self.indices, self.times)
        )
        return self.model_copy(update={"indices": indices, "times": times})


class Geometry(Strict):
    """Displayed source size -> size after resampling -> the box that is cut out of it (pixels)."""

    source: tuple[int, int]
    resize: tuple[int, int]
    crop_xy: tuple[int, int]
    target: tuple[int, int]


class SoundFile(Strict):
    """A file of an audio dataset that holds the sound of a clip."""

    dataset: str
    path: str
    media_id: str
    """sha256 of the file."""


class SoundSelection(Strict):
    """The stretch of sound that belongs to a sample, on the clock of the file that holds it."""

    start_s: float
    duration_s: float
    channels: int
    """0 where silence stands for the sound of a clip that has none."""
    layout: str
    tracks: tuple[int, ...] = ()
    """The place of the sound track in the file, or of the left and the right one."""
    sound: SoundFile | None = None
    """The file, where it is not the sample's own."""
    heard_s: tuple[float, float] | None = None
    """From when to when the file has sound, counted from `start_s`; the rest is padding. None: all of it."""

    @property
    def is_silence(self) -> bool:
        """Whether silence stands for a track that the clip lacks."""
        return self.channels == 0


Kind = Literal["video", "image", "audio"]


class ConditioningClip(Strict):
    """What is encoded beside a clip: its file of a conditioning dataset, or one of its frames."""

    purpose: Literal["reference", "mask", "loss_mask", "keyframe"]
    id: str
    dataset: str
    kind: Kind
    path: str
    media_id: str
    """sha256 of the file."""
    frames: FrameSelection
    geometry: Geometry
    spatial_factor: int = 1
    """How many times smaller it is used than the clip."""
    temporal_factor: int = 1
    """How many times fewer frames a second it is used with."""

    @property
    def measured(self) -> bool:
        """Whether it is a mask, which is measured in the cells of the latents and passes no VAE."""
        return self.purpose in ("mask", "loss_mask")


class Sample(Strict):
    """A clip, picture or sound that will be trained on.

    A sound that is trained on alone has no pictures: `frames` and `geometry` then give the size of the
    zeros that stand for them.
    """

    id: str
    """`dataset/relative path with its extension`: unique, and stable under additions."""
    dataset: str
    kind: Kind = "video"
    path: str
    media_id: str
    """sha256 of the file."""
    captions: tuple[str, ...]
    caption_weights: tuple[float, ...] = ()
    """How often each caption is drawn, their sum 1; empty where all are drawn alike."""
    frames: FrameSelection
    geometry: Geometry
    audio: SoundSelection | None
    notes: tuple[str, ...] = ()
    source_fps: float
    source_duration_s: float
    visits: int = 1
    probability: float = 1.0
    regularisation: bool = False
    trigger: str = ""
    """The dataset's instance prompt, where captions are made of it."""
    reference: ConditioningClip | None = None
    """The video that is given beside the clip (IC-LoRA)."""
    further_references: tuple[ConditioningClip, ...] = ()
    """Those that are given beside the first one."""
    reference_sound: SoundSelection | None = None
    """The sound that is given beside the clip's own, such as a voice."""
    mask: ConditioningClip | None = None
    """White where the clip is made and black where it is given."""
    loss_mask: ConditioningClip | None = None
    """White where the clip counts in the loss."""

    @model_serializer(mode="wrap")
    def _as_before(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what a sample does not have: a snapshot's name is made of what its samples have."""
        data: dict[str, Any] = serialise(self)
        for name in ("loss_mask", "caption_weights", "further_references", "reference_sound"):
            if not getattr(self, name):
                data.pop(name, None)
        return data

    @property
    def references(self) -> tuple[ConditioningClip, ...]:
        """The videos that are given beside it, in the order of its dataset's `conditioning_data`."""
        return () if self.reference is None else (self.reference, *self.further_references)

    @property
    def conditioning_clips(self) -> tuple[ConditioningClip, ...]:
        """The files of conditioning datasets that belong to it."""
        masks = (self.mask, self.loss_mask)
        return (*self.references, *(mask for mask in masks if mask is not None))

    @property
    def sounds(self) -> tuple[SoundSelection, ...]:
        """Its own sound, and the one that is given beside it."""
        return tuple(sound for sound in (self.audio, self.reference_sound) if sound is not None)

    @property
    def bucket(self) -> str:
        """`WxH@F`, in pixels and frames, `+WxH@F` of each reference; `audio@Ss`, in seconds, for sound."""
        if self.kind == "audio" and self.audio is not None:
            own = audio_bucket_name(self.audio.duration_s)
        else:
            own = bucket_name(_size(self), *(_size(reference) for reference in self.references))
        beside = self.reference_sound
        return own if beside is None else f"{own}+{audio_bucket_name(beside.duration_s)}"


def _size(shown: Sample | ConditioningClip) -> Bucket:
    return Bucket(*shown.geometry.target, shown.frames.count)


class Rejection(Strict):
    """A file that will not be trained on, and why, in words for its owner."""

    id: str
    dataset: str
    path: str
    reason: str


class Snapshot(Strict):
    """All files of the datasets, each exactly once."""

    roots: dict[str, str]
    """Dataset id -> its directory. Not part of the id, so that data may move."""
    samples: tuple[Sample, ...]
    rejections: tuple[Rejection, ...]
    wants_audio: bool
    fps: tuple[float, ...]

    @property
    def id(self) -> str:
        """16 hex digits of the content's hash; where the datasets lie is no part of it."""
        return fingerprint(self.model_dump(mode="json", exclude={"roots"}))[:16]

    @property
    def data_id(self) -> str:
        """Hash of all that training can see of the data; an extra rejected file, a note or a trigger does
        not change it."""
        seen = [
            s.model_dump(mode="json", exclude={"notes", "path", "dataset", "trigger"}) for s in self.samples
        ]
        return fingerprint({"samples": seen, "wants_audio": self.wants_audio})[:16]

    def file(self, sample: Sample | ConditioningClip) -> Path:
        """Where the file of a sample is now, or of what belongs to one."""
        return Path(self.roots[sample.dataset]) / sample.path

    def sound_file(self, sample: Sample) -> Path:
        """Where the file is now that holds the sound of a sample."""
        sound = None if sample.audio is None else sample.audio.sound
        return self.file(sample) if sound is None else Path(self.roots[sound.dataset]) / sound.path

    def buckets(self) -> dict[str, list[Sample]]:
        """Samples by bucket, both in a fixed order."""
        groups: dict[str, list[Sample]] = {}
        for sample in sorted(self.samples, key=lambda s: (s.bucket, s.id)):
            groups.setdefault(sample.bucket, []).append(sample)
        return groups

    def captions(self) -> Iterator[str]:
        """Every caption once, in a fixed order."""
        yield from sorted({caption for sample in self.samples for caption in sample.captions})
