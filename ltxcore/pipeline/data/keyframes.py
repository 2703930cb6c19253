"""The frames of a clip that are encoded by themselves because the recipe gives them as keyframes."""

from __future__ import annotations

from ltxcore.config.conditioning_settings import Keyframes
from ltxcore.config.geometry import GEOMETRY
from ltxcore.store.snapshot import ConditioningClip, Sample


def keyframe_clips(sample: Sample, condition: Keyframes | None) -> tuple[tuple[int, ConditioningClip], ...]:
    """Each frame that is given beside a clip, with its picture; none of a picture or a sound alone."""
    if condition is None or sample.kind != "video":
        return ()
    return tuple((frame, _picture(sample, frame)) for frame in condition.beside(sample.frames.count))


def keyframe_tokens(condition: Keyframes | None, frames: int, width: int, height: int) -> int:
    """Tokens that keyframes add to a clip of this size, in frames and pixels."""
    beside = () if condition is None else condition.beside(frames)
    return len(beside) * GEOMETRY.video_tokens(1, width, height)


def _picture(sample: Sample, frame: int) -> ConditioningClip:
    return ConditioningClip(
        purpose="keyframe",
        id=f"{sample.id}, frame {frame}",
        dataset=sample.dataset,
        kind="video",
        path=sample.path,
        media_id=sample.media_id,
        frames=sample.frames.only([frame]),
        geometry=sample.geometry,
    )
