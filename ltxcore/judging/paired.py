"""Two LoRAs on the same clips with the same noise: differences clip by clip, and the interval of their mean.

What a clip is like cancels out in its own difference, so that a few dozen clips say what a mean over all of
them could not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Final, Literal

import numpy as np

from ltxcore.store.fingerprint import derive_seed

CONFIDENCE: Final = 0.95
FEW: Final = 30
"""With fewer clips a resampling is narrower than it should be; Student's t is used."""
RESAMPLES: Final = 4_000
_AT_ONCE: Final = 250

Losses = Mapping[str, Mapping[str, float | None]]
"""Modality (`video`, `audio`) -> sigma -> loss; None where the model gave no number."""
METRICS: Final[Mapping[str, tuple[str, ...]]] = {
    "loss": ("video", "audio"),
    "video_loss": ("video",),
    "sound_loss": ("audio",),
}
"""Metric -> the modalities whose losses are summed, of those that a clip has."""


@dataclass(frozen=True)
class Interval:
    """The mean of a difference, and where it lies with the confidence asked for."""

    mean: float
    low: float
    high: float
    clips: int
    method: Literal["t", "bootstrap"]


@dataclass(frozen=True)
class Differences:
    """A metric's difference of each clip: the challenger's minus the champion's. Below 0 is better."""

    by_clip: Mapping[str, float]
    broken: tuple[str, ...] = ()
    """Clips of which the challenger gives no number although the champion does."""


def clip_metric(losses: Losses, metric: str) -> float | None:
    """A clip's value of a metric: its modalities' losses, each the mean over the sigmas, summed.

    Returns:
        NaN where the model gave no number; None where the clip has none of the metric's modalities.
    """
    found = [losses[modality] for modality in METRICS[metric] if losses.get(modality)]
    if not found:
        return None
    return sum(fmean(math.nan if v is None else v for v in sigmas.values()) for sigmas in found)


def differences(challenger: Mapping[str, Losses], champion: Mapping[str, Losses], metric: str) -> Differences:
    """The differences of all clips that both were measured on and that have the metric's modality.

    Args:
        challenger: clip -> its losses.
        champion: the same; where it gives no number, the clip says nothing.
        metric: of `METRICS`.
    """
    by_clip, broken = {}, []
    for clip in sorted(challenger.keys() & champion.keys()):
        new, old = clip_metric(challenger[clip], metric), clip_metric(champion[clip], metric)
        if new is None or old is None or not math.isfinite(old):
            continue
        if math.isfinite(new):
            by_clip[clip] = new - old
        else:
            broken.append(clip)
    return Differences(by_clip, tuple(broken))


def interval_of(values: Sequence[float], seed: int, confidence: float = CONFIDENCE) -> Interval:
    """The two-sided interval of a mean.

    By Student's t below `FEW` values; else by the percentiles of the means of resampled clips (Efron 1979).
    The order of the values does not matter.

    Args:
        values: at least 2, finite.
        seed: of the resampling.
        confidence: within (0, 1).

    Raises:
        ValueError: there are fewer than 2.
    """
    if len(values) < 2:
        raise ValueError(f"an interval needs at least 2 values, and there are {len(values)}")
    mean, count = fmean(values), len(values)
    if min(values) == max(values):
        return Interval(values[0], values[0], values[0], count, "t" if count < FEW else "bootstrap")
    if count < FEW:
        half = t_quantile((1 + confidence) / 2, count - 1) * stdev(values) / math.sqrt(count)
        return Interval(mean, mean - half, mean + half, count, "t")
    drawn, ordered = np.random.Generator(np.random.PCG64(derive_seed(seed, "judge-lora"))), np.sort(values)
    means = np.concatenate(
        [
            ordered[drawn.integers(0, count, (_AT_ONCE, count))].mean(axis=1)
            for _ in range(RESAMPLES // _AT_ONCE)
        ]
    )
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean, float(low), float(high), count, "bootstrap")


def t_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t above one half, by bisection of its distribution.

    Args:
        probability: within (0.5, 1).
        freedom: degrees of freedom, at least 1.
    """
    low, high = 0.0, 1.0
    while _t_between(high, freedom) < 2 * probability - 1:
        high *= 2
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if _t_between(middle, freedom) < 2 * probability - 1 else (low, middle)
    return high


def _t_between(t: float, freedom: int) -> float:
    """The probability of |T| < t (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    square = math.cos(angle) ** 2
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= square * (k - 1) / k
        total += term
    inner = math.sin(angle) * total
    return 2 / math.pi * (angle + inner) if odd else inner
