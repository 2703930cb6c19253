"""Buckets as they are configured and as they might be: what each wastes, dataset by dataset."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from statistics import median

from ltxcore.config.bucket_list import Bucket
from ltxcore.config.datasets import VideoDataset
from ltxcore.media.bucket_proposal import (
    Proposal,
    Shape,
    Waste,
    elbow,
    kept_share,
    propose,
    waste_as_placed,
)
from ltxcore.media.buckets import is_large_enough, target_size
from ltxcore.media.errors import MediaError
from ltxcore.media.fitting import fit_clip
from ltxcore.media.frames import available_frames
from ltxcore.media.probe import MediaProbe
from ltxcore.stages.context import Context
from ltxcore.stages.contract import PROBE
from ltxcore.stages.probe_media import MediaFile, Memo
from ltxcore.stages.reports import Row

MOST_BUCKETS = 12


class NothingProbed(LookupError):
    """Advice needs clips that have been looked at."""


@dataclass(frozen=True)
class BucketAdvice:
    """One dataset: its buckets now, the best plan of each count, and the one that is recommended."""

    dataset: str
    clips: int
    configured: tuple[Bucket, ...]
    waste: Waste
    proposals: tuple[Proposal, ...]
    chosen: Proposal
    max_tokens: int


def advise(
    ctx: Context,
    memo: Memo,
    files: Iterable[MediaFile],
    count: int | None = None,
    max_tokens: int | None = None,
) -> list[BucketAdvice]:
    """Advice for every video dataset of which clips have been probed.

    Args:
        count: how many buckets; None: as many as each save enough (`elbow`).
        max_tokens: tokens of a sample; None: those of the largest bucket as configured.

    Raises:
        NothingProbed: no clip has been probed yet.
    """
    probes: dict[str, list[tuple[str, MediaProbe]]] = {}
    for file in files:
        known = memo.look_up(file)
        if known is None or not isinstance(file.dataset, VideoDataset):
            continue
        media_id, record = known
        if "video" in record.get("probe", {}):
            found = MediaProbe.model_validate(record["probe"])
            probes.setdefault(file.dataset.id, []).append((media_id, found))
    advice = [
        _advise(dataset, probes[dataset.id], count, max_tokens)
        for dataset in ctx.datasets.video
        if dataset.id in probes
    ]
    if not any(advice):
        raise NothingProbed(
            f"no clip of these datasets has been looked at yet; run the stage {PROBE.name} first"
        )
    return [found for found in advice if found is not None]


def _advise(
    dataset: VideoDataset,
    probes: list[tuple[str, MediaProbe]],
    count: int | None,
    max_tokens: int | None,
) -> BucketAdvice | None:
    placed = [_placed(dataset, media_id, probe) for media_id, probe in probes]
    inside = [(shape, bucket) for shape, bucket in placed if _is_wanted(dataset, shape)]
    if not inside:
        return None
    shapes = [shape for shape, _ in inside]
    configured = sorted({bucket for _, bucket in inside if bucket is not None})
    sizes = [_configured_size(dataset, shape) for shape in shapes]
    budget = max_tokens or max(
        (bucket.tokens for bucket in configured), default=max(Bucket(*size, 1).tokens for size in sizes)
    )
    proposals = propose(
        shapes,
        area=median(width * height for width, height in sizes),
        alignment=dataset.aspect_bucket_alignment,
        max_tokens=budget,
        most=count or MOST_BUCKETS,
    )
    return BucketAdvice(
        dataset=dataset.id,
        clips=len(shapes),
        configured=tuple(configured),
        waste=waste_as_placed(inside),
        proposals=tuple(proposals),
        chosen=proposals[-1] if count else elbow(proposals),
        max_tokens=budget,
    )


def _placed(dataset: VideoDataset, media_id: str, probe: MediaProbe) -> tuple[Shape, Bucket | None]:
    """A clip's shape and the bucket it has as configured; None where its length or shape leaves it out."""
    rate = Fraction(str(dataset.video.frame_rate))
    shape = Shape(
        width=probe.video.width,
        height=probe.video.height,
        frames=available_frames(probe.video, rate),
        visits=(dataset.repeats + 1) * dataset.probability,
    )
    try:
        cut, frames = fit_clip(dataset, probe, media_id)
        return shape, Bucket(*cut.target, frames.count)
    except MediaError:
        return shape, None


def _is_wanted(dataset: VideoDataset, shape: Shape) -> bool:
    """Whether limits that the user has set himself let the clip in; num_frames is no such limit."""
    aspect = shape.width / shape.height
    low, high = dataset.minimum_aspect_ratio or 0, dataset.maximum_aspect_ratio or float("inf")
    shortest, longest = dataset.video.min_frames or 1, dataset.video.max_frames or float("inf")
    fits = low <= aspect <= high and shortest <= shape.frames <= longest
    return fits and is_large_enough(dataset, shape.width, shape.height)


def _configured_size(dataset: VideoDataset, shape: Shape) -> tuple[int, int]:
    if dataset.buckets:
        # By its shape alone: the length, for which it may be left out now, is what advice is asked for.
        nearest = max(dataset.fixed_buckets, key=lambda bucket: (kept_share(shape, bucket), bucket))
        return nearest.width, nearest.height
    return target_size(
        shape.width,
        shape.height,
        dataset.resolution,
        dataset.resolution_type,
        dataset.aspect_bucket_alignment,
    )


def advice_rows(advice: BucketAdvice) -> list[Row]:
    """The buckets as configured, then the best plan of each count."""
    now = ("as configured", advice.configured, advice.waste)
    plans = [(_name(advice, proposal), proposal.buckets, proposal.waste) for proposal in advice.proposals]
    return [
        {
            "plan": name,
            "buckets": len(buckets),
            "waste": f"{waste.share:.1%}",
            "cropped": f"{_share(waste.cropped, waste):.1%}",
            "frames dropped": f"{_share(waste.dropped, waste):.1%}",
            "clips left out": waste.clips_left_out,
            "sizes": " ".join(str(bucket) for bucket in buckets),
        }
        for name, buckets, waste in (now, *plans)
    ]


def paste_line(advice: BucketAdvice) -> str:
    """What to write into the dataset's entry for the recommended plan."""
    return f"buckets: [{', '.join(bucket.written for bucket in advice.chosen.buckets)}]"


def _name(advice: BucketAdvice, proposal: Proposal) -> str:
    return "proposed" if proposal is advice.chosen else f"best {len(proposal.buckets)}"


def _share(frames: float, waste: Waste) -> float:
    return frames / waste.total if waste.total else 0.0
