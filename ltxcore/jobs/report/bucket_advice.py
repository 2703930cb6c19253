"""Buckets as they are configured and as they might be: what each wastes, dataset by dataset."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fractions import Fraction
from statistics import median
from typing import NamedTuple

from ltxcore.config.bucket_list import Bucket
from ltxcore.config.datasets import VideoDataset
from ltxcore.media.bucket_proposal import (
    LEAST_GAIN,
    Proposal,
    Shape,
    Waste,
    better,
    elbow,
    kept_share,
    propose,
    waste_as_placed,
)
from ltxcore.media.buckets import is_large_enough, target_size
from ltxcore.media.captions import read_captions
from ltxcore.media.errors import MediaError
from ltxcore.media.fitting import fit_clip
from ltxcore.media.frame_selection import picture_notes
from ltxcore.media.frames import available_frames
from ltxcore.media.probe import MediaProbe
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import PROBE
from ltxcore.pipeline.data.tables import Row, counted
from ltxcore.stages.probe_media.media_files import MediaFile
from ltxcore.stages.probe_media.memo import Memo
from ltxcore.stages.probe_media.plan_samples import make_samples

MOST_BUCKETS = 12


class NothingProbed(LookupError):
    """Advice needs clips that have been looked at."""


class Probed(NamedTuple):
    """A clip, and what has been measured of it."""

    file: MediaFile
    media_id: str
    probe: MediaProbe


@dataclass(frozen=True)
class BucketAdvice:
    """One dataset: its buckets now, the best plan of each count, and the one that is recommended, if any."""

    dataset: str
    clips: int
    """Those that are taken, and those that only their length or shape leaves out as configured."""
    taken: int
    """Those that are taken as configured."""
    configured: tuple[Bucket, ...]
    waste: Waste
    proposals: tuple[Proposal, ...]
    chosen: Proposal | None
    """None where no plan is better than the configured one, and none was asked for."""
    max_tokens: int
    asked: bool = False
    """Whether that many buckets were asked for, whatever they waste."""

    @property
    def about(self) -> str:
        """Which clips the figures are of, in words."""
        if self.taken == self.clips:
            return counted(self.clips, "clip")
        outside = self.clips - self.taken
        return f"{counted(self.taken, 'clip')} and {outside} that the buckets leave out"

    @property
    def trade(self) -> str:
        """What the recommended plan gains and what it costs, or that none is better, in a line."""
        now = f"{self.waste.share:.1%} waste in {counted(len(self.configured), 'bucket')} as configured"
        if self.chosen is None:
            return f"{now}: no other buckets are better"
        fewer = len(self.configured) - len(self.chosen.buckets)
        saved = self.waste.share - self.chosen.waste.share
        outside = self.chosen.waste.clips_left_out - self.waste.clips_left_out
        parts = [
            f"{abs(saved):.1%} of the frames {'saved' if saved > 0 else 'lost'}"
            if abs(saved) >= LEAST_GAIN
            else "as few frames lost"
        ]
        if fewer:
            parts.append(f"{counted(abs(fewer), 'bucket')} {'fewer' if fewer > 0 else 'more'}")
        if outside:
            parts.append(f"{counted(abs(outside), 'clip')} {'more' if outside > 0 else 'fewer'} left out")
        return f"against {now}: {', '.join(parts)}"


def advise(
    ctx: Context,
    memo: Memo,
    files: Iterable[MediaFile],
    count: int | None = None,
    max_tokens: int | None = None,
) -> list[BucketAdvice]:
    """Advice for every video dataset of which clips have been probed.

    Args:
        count: how many buckets; None: as many as each save enough (`elbow`), and none where what is
            configured is as good (`better`).
        max_tokens: tokens of a sample; None: those of the largest bucket as configured.

    Raises:
        NothingProbed: no clip has been probed yet.
    """
    files = list(files)
    taken = {sample.id for sample in make_samples(ctx.datasets, memo, files)[0]}
    probes: dict[str, list[Probed]] = {}
    for file in files:
        known = memo.look_up(file)
        if known is None or not isinstance(file.dataset, VideoDataset):
            continue
        media_id, content = known
        if content.probe is not None and "video" in content.probe:
            found = MediaProbe.model_validate(content.probe)
            probes.setdefault(file.dataset.id, []).append(Probed(file, media_id, found))
    advice = [
        _advise(dataset, probes[dataset.id], taken, count, max_tokens)
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
    probes: list[Probed],
    taken: Collection[str],
    count: int | None,
    max_tokens: int | None,
) -> BucketAdvice | None:
    inside = []
    for probed in probes:
        shape, bucket = _placed(dataset, probed.media_id, probed.probe)
        is_usable = probed.file.id in taken if bucket is not None else _would_be_taken(dataset, probed)
        if is_usable and _is_wanted(dataset, shape):
            inside.append((shape, bucket))
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
    waste = waste_as_placed(inside)
    # What has more tokens than were asked for is no plan to stay with.
    asked = any(bucket.tokens > budget for bucket in configured)
    chosen = proposals[-1] if count else elbow(proposals) if asked else better(proposals, configured, waste)
    return BucketAdvice(
        dataset=dataset.id,
        clips=len(shapes),
        taken=sum(bucket is not None for _, bucket in inside),
        configured=tuple(configured),
        waste=waste,
        proposals=tuple(proposals),
        chosen=chosen,
        max_tokens=budget,
        asked=count is not None,
    )


def _would_be_taken(dataset: VideoDataset, probed: Probed) -> bool:
    """Whether nothing but its shape or length keeps a clip out."""
    try:
        picture_notes(dataset.video, probed.probe.video)
        read_captions(dataset, probed.file.path, probed.file.bounds)
    except MediaError:
        return False
    return True


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


def paste_line(chosen: Proposal) -> str:
    """What to write into the dataset's entry for a plan."""
    return f"buckets: [{', '.join(bucket.written for bucket in chosen.buckets)}]"


def _name(advice: BucketAdvice, proposal: Proposal) -> str:
    chosen = "asked for" if advice.asked else "proposed"
    return chosen if proposal is advice.chosen else f"best {len(proposal.buckets)}"


def _share(frames: float, waste: Waste) -> float:
    return frames / waste.total if waste.total else 0.0
