"""Aligns a clip's reference or mask: the same picture at the same times as the clip; and cuts the sound that
is given beside it."""

from __future__ import annotations

from math import floor, log
from typing import NamedTuple

from ltxcore.config.dataset_blocks import VideoSettings
from ltxcore.config.dataset_kinds import ConditioningDataset
from ltxcore.config.geometry import GEOMETRY
from ltxcore.media.errors import MediaError
from ltxcore.media.frames import select_frames
from ltxcore.media.pictures import PictureProbe
from ltxcore.media.probe import MediaProbe
from ltxcore.media.sound_files import SoundProbe
from ltxcore.store.snapshot import (
    ConditioningClip,
    FrameSelection,
    Geometry,
    Sample,
    SoundFile,
    SoundSelection,
)

ROUNDING_S = 1e-6
SHAPES_DIFFER = 0.02
"""Relative difference of two aspect ratios from which on they are two shapes, and no rounding of one."""


class NamedConditioningFile(NamedTuple):
    """A file of a conditioning dataset that has the name of a clip."""

    id: str
    path: str
    media_id: str
    probe: MediaProbe | PictureProbe | SoundProbe


def reference_sound(dataset: ConditioningDataset, file: NamedConditioningFile) -> SoundSelection:
    """The beginning of a sound that is given beside a clip's own: `reference_seconds`, or whole seconds.

    Raises:
        MediaError: it is shorter than a second.
    """
    if not isinstance(file.probe, SoundProbe):
        raise TypeError(f"{file.id} was not read as a sound")
    seconds = min(dataset.reference_seconds, floor(file.probe.duration_s + ROUNDING_S))
    if seconds < 1:
        raise MediaError(
            f"its reference_audio {file.id} is too short: {file.probe.duration_s:.2f} s, and a second is the "
            "least"
        )
    audio = file.probe.audio
    return SoundSelection(
        start_s=audio.start_s,
        duration_s=float(seconds),
        channels=audio.channels,
        layout=audio.layout,
        tracks=audio.tracks,
        sound=SoundFile(dataset=dataset.id, path=file.path, media_id=file.media_id),
    )


def conditioning_clip(
    dataset: ConditioningDataset, file: NamedConditioningFile, clip: Sample
) -> ConditioningClip:
    """Align a conditioning file with its clip.

    It is resampled and cut as the clip is, `reference_downscale_factor` times smaller, and its frames are
    taken at the clip's times, counted from the first frame of each, at its frame rate divided by
    `reference_temporal_scale_factor`. A still mask holds for all frames; a still reference is one frame.

    Raises:
        MediaError: it does not show the clip's picture, is too short, or the clip's size is not divisible.
    """
    still = isinstance(file.probe, PictureProbe)
    if isinstance(file.probe, SoundProbe) or dataset.conditioning_type == "reference_audio":
        raise TypeError(f"{file.id} was read as a sound")
    try:
        return ConditioningClip(
            purpose=dataset.conditioning_type,
            id=file.id,
            dataset=dataset.id,
            kind="image" if still else "video",
            path=file.path,
            media_id=file.media_id,
            frames=_frames(dataset, file.probe, clip),
            geometry=_geometry(file.probe, clip.geometry, dataset.reference_downscale_factor),
            spatial_factor=dataset.reference_downscale_factor,
            temporal_factor=dataset.reference_temporal_scale_factor,
        )
    except MediaError as error:
        raise MediaError(f"its {dataset.conditioning_type} {file.id} {error}") from error


def _frames(dataset: ConditioningDataset, probe: MediaProbe | PictureProbe, clip: Sample) -> FrameSelection:
    rate = clip.frames.fps / dataset.reference_temporal_scale_factor
    if isinstance(probe, PictureProbe):
        count = clip.frames.count if dataset.conditioning_type != "reference" else 1
        return FrameSelection(indices=(0,) * count, fps=rate, start_s=0.0)
    count = GEOMETRY.legal_frames((clip.frames.count - 1) // dataset.reference_temporal_scale_factor + 1)
    return select_frames(probe, VideoSettings(num_frames=count, frame_rate=rate))


def _geometry(probe: MediaProbe | PictureProbe, clip: Geometry, factor: int) -> Geometry:
    shown = probe if isinstance(probe, PictureProbe) else probe.video
    width, height = clip.target
    edge = GEOMETRY.spatial_factor
    if width % (factor * edge) or height % (factor * edge):
        raise MediaError(
            f"cannot be {factor} times smaller: {width}x{height} / {factor} is not in multiples of "
            f"{edge}; write aspect_bucket_alignment: 64 for the clips, or a smaller "
            "reference_downscale_factor"
        )
    if abs(log(shown.width / shown.height) - log(clip.source[0] / clip.source[1])) > SHAPES_DIFFER:
        raise MediaError(
            f"is {shown.width}x{shown.height}, another shape than the clip's "
            f"{clip.source[0]}x{clip.source[1]}"
        )
    target = (width // factor, height // factor)
    resize = (max(target[0], round(clip.resize[0] / factor)), max(target[1], round(clip.resize[1] / factor)))
    offset = (
        min(round(clip.crop_xy[0] / factor), resize[0] - target[0]),
        min(round(clip.crop_xy[1] / factor), resize[1] - target[1]),
    )
    return Geometry(source=(shown.width, shown.height), resize=resize, crop_xy=offset, target=target)
