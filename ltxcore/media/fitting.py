"""The size and length of a sample: its dataset's rules for clips of its shape, or one of named buckets."""

from __future__ import annotations

from fractions import Fraction

from ltxcore.config.bucket_list import Bucket
from ltxcore.config.dataset_kinds import ImageDataset, PictureDataset, VideoDataset
from ltxcore.media.bucket_proposal import Shape, choose
from ltxcore.media.buckets import geometry
from ltxcore.media.errors import MediaError
from ltxcore.media.frames import available_frames, select_frames
from ltxcore.media.probe import MediaProbe
from ltxcore.store.snapshot import FrameSelection, Geometry


def fit_clip(dataset: VideoDataset, probe: MediaProbe, media_id: str) -> tuple[Geometry, FrameSelection]:
    """How a clip is cut, in pixels and in frames.

    Where the dataset names buckets, a clip goes to the one that keeps most of it: the most frames, less the
    pixels that are cut away. Of two that keep the same the larger is taken, whatever their order in the file.

    Raises:
        MediaError: the clip's shape or length is outside the dataset's limits, or it is shorter than all
            buckets.
    """
    width, height = probe.video.width, probe.video.height
    frames = available_frames(probe.video, Fraction(str(dataset.video.frame_rate)))
    bucket = _bucket(
        dataset, Shape(width, height, frames), f"{frames} frames at {dataset.video.frame_rate:g} fps"
    )
    if bucket is None:
        return geometry(dataset, width, height, media_id), select_frames(probe, dataset.video)
    cut = geometry(dataset, width, height, media_id, (bucket.width, bucket.height))
    return cut, select_frames(probe, dataset.video, bucket.frames)


def fit_picture(dataset: ImageDataset, width: int, height: int, media_id: str) -> Geometry:
    """How a picture is cut; as `fit_clip`."""
    bucket = _bucket(dataset, Shape(width, height, 1), "one frame")
    target = None if bucket is None else (bucket.width, bucket.height)
    return geometry(dataset, width, height, media_id, target)


def _bucket(dataset: PictureDataset, shape: Shape, length: str) -> Bucket | None:
    """The named bucket that a clip goes to; None where the dataset names none."""
    if not dataset.buckets:
        return None
    buckets = dataset.fixed_buckets
    chosen = choose(shape, buckets)
    if chosen is None:
        shortest = min(buckets, key=lambda bucket: (bucket.frames, bucket))
        raise MediaError(
            f"is too short for every bucket of its dataset: it has {length}, and the shortest is "
            f"{shortest.written}"
        )
    return chosen
