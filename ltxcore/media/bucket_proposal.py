"""A small set of WxH@F buckets that wastes the fewest pixels and frames, from the clips' shapes alone.

Waste is counted in whole frames. A clip of n frames (at the target rate) in a bucket of F frames, of which
the cut keeps the share s of each picture, uses F·s of its n frames; the rest is waste:

    waste = visits · (n - F·s)  =  visits · ((n - F)  +  F·(1 - s))      dropped frames + cropped pixels

A clip that is shorter than every bucket of its shape has no bucket, and all of it is waste.

Finding k buckets is choosing k facilities: a clip goes to the one that keeps most of it. Candidates are all
sizes with edges in multiples of the alignment and about the wanted area, with all lengths 8n+1 that clips
have, as far as W/32·H/32·((F-1)/8+1) tokens allow. The search takes the best bucket to add to the best k, and
then exchanges one bucket for one candidate, best exchange first, until none helps (greedy k-medians with
exchanges): more buckets never waste more, and equal data give equal buckets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, floor, log, sqrt

import numpy as np
import numpy.typing as npt

from ltxcore.config.bucket_list import Bucket
from ltxcore.config.geometry import GEOMETRY

MOST_ASPECTS, MOST_LENGTHS = 40, 40
ASPECT_STEP = 0.01
"""Finer differences of aspect (as a logarithm) and length are merged for the search; the reported waste
is counted clip by clip."""
ENOUGH_GAIN = 0.02
"""The elbow: one bucket more has to save at least this share of all frames."""
LEAST_GAIN = 0.001
"""A share that the table shows."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """A clip for the search: displayed pixels, whole frames at the target rate, visits an epoch."""

    width: int
    height: int
    frames: int
    visits: float = 1.0


@dataclass(frozen=True)
class Waste:
    """What a set of buckets leaves unused, in frames, weighted by visits."""

    total: float
    """Frames that there are."""
    cropped: float
    """Cropped pixels, as whole frames."""
    dropped: float
    """Frames after the end of a clip's bucket."""
    left_out: float
    """Frames of clips that no bucket takes."""
    clips_left_out: int

    @property
    def wasted(self) -> float:
        """Share of the pixels and frames that is not trained on, for whatever reason."""
        return self.cropped + self.dropped + self.left_out

    @property
    def share(self) -> float:
        """Of all frames, from 0 to 1."""
        return self.wasted / self.total if self.total else 0.0


@dataclass(frozen=True)
class Proposal:
    """The best buckets of one count."""

    buckets: tuple[Bucket, ...]
    waste: Waste


def propose(
    shapes: Sequence[Shape], *, area: float, alignment: int, max_tokens: int, most: int
) -> list[Proposal]:
    """The best plan with 1, 2, … `most` buckets; fewer where more would not help.

    Args:
        area: wanted pixels of a picture.
        alignment: multiple of both edges, in pixels.
        max_tokens: latent video tokens that a sample may have.

    Raises:
        ValueError: no clip, or not even one frame of the wanted area fits into `max_tokens`.
    """
    if not shapes:
        raise ValueError("there is no clip to propose buckets for")
    sizes = _sizes(shapes, area, alignment, max_tokens)
    if not sizes:
        raise ValueError(
            f"one frame of {area:.0f} pixels is more than {max_tokens} tokens; allow more tokens or less area"
        )
    lengths = _thinned({GEOMETRY.legal_frames(shape.frames) for shape in shapes})
    candidates = [
        Bucket(width, height, frames)
        for width, height in sizes
        for frames in _allowed(lengths, max_tokens // _area_tokens(width, height))
    ]
    kept = _kept(_merged(shapes), candidates)
    chosen: list[int] = []
    proposals: list[Proposal] = []
    for _ in range(min(most, len(candidates))):
        chosen = _exchanged(kept, _with_best(kept, chosen))
        buckets = tuple(sorted({candidates[at] for at in chosen}))
        found = Proposal(buckets, waste_of(shapes, buckets))
        if proposals and found.waste.wasted >= proposals[-1].waste.wasted - 1e-9:
            break
        proposals.append(found)
    return proposals


def elbow(proposals: Sequence[Proposal]) -> Proposal:
    """The plan after which one more bucket no longer saves `ENOUGH_GAIN` of all frames."""
    chosen = proposals[0]
    for proposal in proposals[1:]:
        if chosen.waste.share - proposal.waste.share < ENOUGH_GAIN * _step(chosen, proposal):
            break
        chosen = proposal
    return chosen


def better(proposals: Sequence[Proposal], configured: Sequence[Bucket], waste: Waste) -> Proposal | None:
    """The plan to take instead of the configured one; None where that is as good as any.

    Nothing that wastes more is better. Each bucket more has to save `ENOUGH_GAIN`.
    """

    def is_better(proposal: Proposal) -> bool:
        saved, more = waste.share - proposal.waste.share, len(proposal.buckets) - len(configured)
        if more > 0:
            return not configured or saved >= ENOUGH_GAIN * more
        return saved > LEAST_GAIN if more == 0 else saved >= 0

    return next(filter(is_better, (elbow(proposals), *proposals)), None)


def _step(before: Proposal, after: Proposal) -> int:
    return max(1, len(after.buckets) - len(before.buckets))


def choose(shape: Shape, buckets: Sequence[Bucket]) -> Bucket | None:
    """The bucket in which a clip wastes least, or None where it is shorter than all of them."""
    fitting = [bucket for bucket in buckets if bucket.frames <= shape.frames]
    return max(fitting, key=lambda b: (b.frames * kept_share(shape, b), b), default=None)


def kept_share(shape: Shape, bucket: Bucket) -> float:
    """The share of a picture that is left when it covers the bucket's size and the rest is cut off."""
    ratio = (shape.width / shape.height) / (bucket.width / bucket.height)
    return min(ratio, 1 / ratio)


def waste_of(shapes: Sequence[Shape], buckets: Sequence[Bucket]) -> Waste:
    """What is left unused when every clip takes its best bucket."""
    return waste_as_placed([(shape, choose(shape, buckets)) for shape in shapes])


def waste_as_placed(placed: Sequence[tuple[Shape, Bucket | None]]) -> Waste:
    """What is left unused with clips in given buckets; None is a clip that is left out."""
    cropped = dropped = left_out = total = 0.0
    for shape, bucket in placed:
        total += shape.visits * shape.frames
        if bucket is None:
            left_out += shape.visits * shape.frames
        else:
            cropped += shape.visits * bucket.frames * (1 - kept_share(shape, bucket))
            dropped += shape.visits * (shape.frames - bucket.frames)
    outside = sum(bucket is None for _, bucket in placed)
    return Waste(total, cropped, dropped, left_out, outside)


def _area_tokens(width: int, height: int) -> int:
    return GEOMETRY.video_tokens(1, width, height)


def _sizes(shapes: Sequence[Shape], area: float, alignment: int, max_tokens: int) -> list[tuple[int, int]]:
    """Every size on the grid that is nearest to the wanted area for its width or its height."""
    aspects = [shape.width / shape.height for shape in shapes]
    low, high = min(aspects), max(aspects)
    edges = range(1, floor(sqrt(area * max(high, 1 / low)) / alignment) + 2)
    found = set()
    for steps in edges:
        edge = steps * alignment
        other = max(1, floor(area / edge / alignment + 0.5)) * alignment
        found |= {(edge, other), (other, edge)}
    fitting = [size for size in found if _area_tokens(*size) <= max_tokens]
    slack = 1 + alignment / sqrt(area)
    near = [s for s in fitting if low / slack <= s[0] / s[1] <= high * slack]
    return sorted(near or fitting, key=lambda size: size[0] / size[1])


def _thinned(values: Iterable[int]) -> list[int]:
    """At most `MOST_LENGTHS` of the values, evenly chosen, with both ends."""
    found = sorted(values)
    if len(found) <= MOST_LENGTHS:
        return found
    return [found[at] for at in np.linspace(0, len(found) - 1, MOST_LENGTHS).round().astype(int)]


def _allowed(lengths: Sequence[int], latent_frames: int) -> list[int]:
    """The lengths that fit into this many latent frames; a longer clip gives what fits."""
    longest = (latent_frames - 1) * GEOMETRY.temporal_factor + 1
    return sorted({min(length, longest) for length in lengths})


def _merged(shapes: Sequence[Shape]) -> list[Shape]:
    """Clips of about one aspect and of one legal length as one, with the sum of their visits."""
    aspects = np.log([shape.width / shape.height for shape in shapes])
    steps = np.round((aspects - aspects.min()) / max(np.ptp(aspects) / MOST_ASPECTS, ASPECT_STEP)).astype(int)
    sums: dict[tuple[int, int], list[float]] = {}
    for shape, step in zip(shapes, steps, strict=True):
        cell = sums.setdefault((int(step), GEOMETRY.legal_frames(shape.frames)), [0.0, 0.0])
        cell[0] += shape.visits
        cell[1] += shape.visits * log(shape.width / shape.height)
    # A shape is its aspect here: a million pixels wide, so that rounding does not show.
    return [
        Shape(round(1e6 * exp(total / visits)), 1_000_000, frames, visits)
        for (_, frames), (visits, total) in sorted(sums.items())
        if visits > 0
    ]


def _kept(cells: Sequence[Shape], candidates: Sequence[Bucket]) -> Floats:
    """[cells, candidates]: frames that a bucket keeps of a cell's clips; 0 where they are too short."""
    aspect = np.array([cell.width / cell.height for cell in cells])[:, None]
    frames = np.array([cell.frames for cell in cells])[:, None]
    visits = np.array([cell.visits for cell in cells])[:, None]
    ratio = aspect / np.array([bucket.width / bucket.height for bucket in candidates])
    lengths = np.array([bucket.frames for bucket in candidates])
    return np.where(lengths <= frames, visits * lengths * np.minimum(ratio, 1 / ratio), 0.0)


def _with_best(kept: Floats, chosen: list[int]) -> list[int]:
    """The chosen candidates and the one that adds most to them."""
    return [*chosen, int(np.argmax(_sums(kept, chosen)))]


def _exchanged(kept: Floats, chosen: list[int]) -> list[int]:
    """One candidate for another, the best exchange first, until none keeps more."""
    best = float(kept[:, chosen].max(axis=1).sum())
    while True:
        moves = []
        for place in range(len(chosen)):
            rest = chosen[:place] + chosen[place + 1 :]
            sums = _sums(kept, rest)
            winner = int(np.argmax(sums))
            moves.append((float(sums[winner]), [*rest, winner]))
        most, better = max(moves, key=lambda move: move[0])
        if most <= best * (1 + 1e-9):
            return chosen
        best, chosen = most, better


def _sums(kept: Floats, chosen: list[int]) -> Floats:
    """For each candidate, the frames that are kept with it beside the chosen ones."""
    if not chosen:
        return kept.sum(axis=0)
    sums: Floats = np.maximum(kept, kept[:, chosen].max(axis=1)[:, None]).sum(axis=0)
    return sums
