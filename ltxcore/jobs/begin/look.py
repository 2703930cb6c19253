"""What the clips of a folder are like, from their headers alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ltxcore.config.dataset_kinds import AudioDataset, VideoDataset
from ltxcore.media.captions import read_captions
from ltxcore.media.dataset_files import Bounds
from ltxcore.media.discover import list_files
from ltxcore.media.errors import MediaError
from ltxcore.media.ffmpeg_process import processes_at_once
from ltxcore.media.probe import read_streams
from ltxcore.media.sound_files import probe_sound

MOST_READ: Final = 96
"""Files whose headers are read; of more, so many from all over the folder."""


@dataclass(frozen=True)
class Clip:
    """What a header says. A sound has no size."""

    seconds: float
    size: tuple[int, int] | None
    sound: bool


@dataclass(frozen=True)
class Look:
    """What a person should know of a folder before anything is spent."""

    files: int
    read: tuple[Clip, ...]
    refused: tuple[str, ...]
    """Name and reason of each file that was read and cannot be used."""
    uncaptioned: tuple[str, ...]
    """Names of the files without a caption, of all."""
    captions: tuple[str, ...]
    """First caption of each file that has one."""

    def seconds_of_most(self, share: float = 0.8) -> float:
        """The length that this share of the clips reaches, in seconds."""
        lengths = sorted((clip.seconds for clip in self.read), reverse=True)
        return lengths[min(len(lengths) - 1, int(share * len(lengths)))]

    @property
    def typical_size(self) -> tuple[int, int]:
        """Width and height of the clip in the middle, by shape."""
        sizes = sorted((clip.size for clip in self.read if clip.size), key=lambda size: size[0] / size[1])
        return sizes[len(sizes) // 2]

    @property
    def with_sound(self) -> int:
        """How many of the clips that were read have sound."""
        return sum(clip.sound for clip in self.read)


class NothingToUse(ValueError):
    """A folder has no file that can be trained on."""


def look_at(folder: Path, sounds: bool = False) -> Look:
    """Read the headers of a folder's clips, or of its sounds, and look for captions beside them.

    Raises:
        NothingToUse: there is no clip, or none of those that were read can be used.
        OSError: the folder cannot be read.
    """
    dataset: VideoDataset | AudioDataset = (
        AudioDataset(id="sounds", dataset_type="audio", instance_data_dir=str(folder))
        if sounds
        else VideoDataset(id="clips", dataset_type="video", instance_data_dir=str(folder))
    )
    bounds = Bounds(folder)
    files = list_files(dataset, bounds)
    what = "sound" if sounds else "clip"
    if not files:
        raise NothingToUse(f"there is no {what} in {folder}")
    step = max(1, len(files) // MOST_READ)
    with ThreadPoolExecutor(processes_at_once()) as pool:
        found = list(pool.map(_reader(sounds), files[::step]))
    read = tuple(clip for clip in found if isinstance(clip, Clip))
    refused = tuple(reason for reason in found if isinstance(reason, str))
    if not read:
        raise NothingToUse(f"no {what} in {folder} can be used; the first: {refused[0]}")
    captions, uncaptioned = _captions(dataset, files, bounds)
    return Look(len(files), read, refused, uncaptioned, captions)


def _reader(sounds: bool) -> Callable[[Path], Clip | str]:
    def read(path: Path) -> Clip | str:
        try:
            if sounds:
                return Clip(probe_sound(path).duration_s, None, sound=True)
            probe = read_streams(path, decoded=False)
        except MediaError as reason:
            return f"{path.name} {reason}"
        return Clip(probe.duration_s, (probe.video.width, probe.video.height), probe.audio is not None)

    return read


def _captions(
    dataset: VideoDataset | AudioDataset, files: Sequence[Path], bounds: Bounds
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    captions, missing = [], []
    for path in files:
        try:
            captions.append(read_captions(dataset, path, bounds).texts[0])
        except MediaError:
            missing.append(path.name)
    return tuple(captions), tuple(missing)
