"""A snapshot: the immutable answer of probe-media, which every later stage reads.

It names each file of the datasets once, as a sample with a complete decoding plan or as a rejection
with a reason. Its id is a hash of its content, so equal data gives an equal id on any machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ltxcore.config.base import Strict
from ltxcore.store.fingerprint import fingerprint


class FramePlan(Strict):
    """Which source frames a sample shows: one source index for each output frame, in order."""

    indices: tuple[int, ...]
    fps: float
    start_s: float
    """Presentation time of the first frame, on the container's clock."""

    @property
    def count(self) -> int:
        return len(self.indices)

    @property
    def duration_s(self) -> float:
        return self.count / self.fps


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


class AudioPlan(Strict):
    """The stretch of sound that belongs to a sample, on the clock of the file that holds it."""

    start_s: float
    duration_s: float
    channels: int
    """0 where silence stands for the sound of a clip that has none."""
    layout: str
    sound: SoundFile | None = None
    """The file, where it is not the sample's own."""
    heard_s: tuple[float, float] | None = None
    """From when to when the file has sound, counted from `start_s`; the rest is padding. None: all of it."""

    @property
    def is_silence(self) -> bool:
        return self.channels == 0


Kind = Literal["video", "image", "audio"]


class Companion(Strict):
    """A file of a conditioning dataset that belongs to a clip: its reference, or its mask."""

    purpose: Literal["reference", "mask"]
    id: str
    dataset: str
    kind: Kind
    path: str
    media_id: str
    """sha256 of the file."""
    frames: FramePlan
    geometry: Geometry
    spatial_factor: int = 1
    """How many times smaller it is used than the clip."""
    temporal_factor: int = 1
    """How many times fewer frames a second it is used with."""


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
    frames: FramePlan
    geometry: Geometry
    audio: AudioPlan | None
    notes: tuple[str, ...] = ()
    source_fps: float
    source_duration_s: float
    visits: int = 1
    probability: float = 1.0
    regularisation: bool = False
    trigger: str = ""
    """The dataset's instance prompt, where captions are made of it."""
    reference: Companion | None = None
    """The video that is given beside the clip (IC-LoRA)."""
    mask: Companion | None = None
    """White where the clip is made and black where it is given."""

    @property
    def companions(self) -> tuple[Companion, ...]:
        """The files of conditioning datasets that belong to it."""
        return tuple(companion for companion in (self.reference, self.mask) if companion is not None)

    @property
    def bucket(self) -> str:
        """`WxH@F`, in pixels and frames, and `+WxH@F` of a reference; `audio@Ss`, in seconds, for sound."""
        if self.kind == "audio" and self.audio is not None:
            return f"audio@{self.audio.duration_s:g}s"
        return "+".join(_size(shown) for shown in (self, self.reference) if shown is not None)


def _size(shown: Sample | Companion) -> str:
    width, height = shown.geometry.target
    return f"{width}x{height}@{shown.frames.count}"


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
        return fingerprint(self.model_dump(mode="json", exclude={"roots"}))[:16]

    @property
    def data_id(self) -> str:
        """What training can see of the data: a rejected file more, a note or a trigger do not change it."""
        seen = [
            s.model_dump(mode="json", exclude={"notes", "path", "dataset", "trigger"}) for s in self.samples
        ]
        return fingerprint({"samples": seen, "wants_audio": self.wants_audio})[:16]

    def file(self, sample: Sample | Companion) -> Path:
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
