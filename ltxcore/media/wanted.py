"""The keys of a dataset on which a file's probe depends."""

from __future__ import annotations

from ltxcore.config.base import Strict
from ltxcore.config.dataset_kinds import (
    MOST_MEGAPIXELS_READ,
    AudioDataset,
    ConditioningDataset,
    Media,
    VideoDataset,
)
from ltxcore.media.errors import MediaError
from ltxcore.store.fingerprint import fingerprint

MEGA = 1_000_000


class Wanted(Strict):
    """The dataset's keys that a probe depends on. A probe is kept under the content and these."""

    video_track: int | None = None
    audio_track: int | None = None
    max_megapixels: float = MOST_MEGAPIXELS_READ

    @property
    def key(self) -> str:
        """Empty for a dataset that says nothing of it."""
        return "" if self == Wanted() else f"-{fingerprint(self.model_dump(mode='json'))[:16]}"

    @property
    def most_pixels(self) -> int:
        """The largest picture that is decoded, in pixels."""
        return int(self.max_megapixels * MEGA)

    def check_size(self, width: int, height: int) -> None:
        """Refuse a picture by what its header says, before it is decoded.

        Raises:
            MediaError: it has more pixels than `max_megapixels`.
        """
        if width * height > self.most_pixels:
            raise MediaError(
                f"shows a picture of {width}x{height} pixels, {width * height / MEGA:.3g} megapixels; "
                f"max_megapixels is {self.max_megapixels:g}"
            )


def wanted_of(dataset: Media | ConditioningDataset) -> Wanted:
    """What a dataset says of it."""
    if isinstance(dataset, AudioDataset):
        return Wanted(audio_track=dataset.audio.track)
    size = dataset.max_megapixels
    if not isinstance(dataset, VideoDataset):
        return Wanted(max_megapixels=size)
    return Wanted(max_megapixels=size, video_track=dataset.video.track, audio_track=dataset.audio.track)
