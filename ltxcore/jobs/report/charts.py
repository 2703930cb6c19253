"""The charts of the dataset report, as numbers: bars, and histograms on round steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor, log10

from ltxcore.jobs.report.dataset_report import Clip
from ltxcore.pipeline.data.tables import Row, counted

MOST_COLUMNS = 24
MOST_RATES = 12


@dataclass(frozen=True)
class Bar:
    """One bar of a chart."""

    label: str
    parts: tuple[float, ...]
    """Shares of the whole length, from left to right."""
    figure: str
    """What stands behind the bar."""
    title: str = ""
    """What the parts are."""


@dataclass(frozen=True)
class Column:
    """One column of a histogram."""

    count: int
    height: float
    """A share of the highest column."""


@dataclass(frozen=True)
class Histogram:
    """Columns of equal width."""

    columns: tuple[Column, ...]
    first: int
    """The lower end, in steps."""
    step: float
    unit: str

    def at(self, column: int) -> str:
        """The lower end of a column, in the unit."""
        return f"{(self.first + column) * self.step:g}"


def histogram(values: Sequence[float], unit: str, least_step: float = 1.0) -> Histogram | None:
    """Columns at least `least_step` wide over the values, on round numbers; None without values."""
    if not values:
        return None
    step = _round_step(max(least_step, (max(values) - min(values)) / MOST_COLUMNS))
    first = floor(min(values) / step)
    counts = [0] * (max(1, floor(max(values) / step) - first + 1))
    for value in values:
        counts[floor(value / step) - first] += 1
    columns = tuple(Column(count, count / max(counts)) for count in counts)
    return Histogram(columns, first, step, unit)


def _round_step(wanted: float) -> float:
    """The smallest of 1, 2, 5, 10, … (and their tenths) that is at least so large."""
    power = 10.0 ** floor(log10(wanted))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= wanted * (1 - 1e-9))


def bucket_bars(buckets: Sequence[Row]) -> list[Bar]:
    """Clips of each bucket with and without sound, the fullest first."""
    rows = sorted(buckets, key=lambda row: -int(row["clips"]))
    most = max((int(row["clips"]) for row in rows), default=0) or 1
    return [
        Bar(
            row["bucket"],
            (row["with sound"] / most, (row["clips"] - row["with sound"]) / most),
            f"{counted(row['clips'], 'clip')}, {counted(row['video tokens'], 'token')}",
            "with and without sound",
        )
        for row in rows
    ]


def layout_bars(clips: Sequence[Clip]) -> list[Bar]:
    """Clips of each channel layout."""
    layouts = Counter(clip.sound or "none" for clip in clips)
    return [Bar(name, (count / len(clips),), f"{count}") for name, count in layouts.most_common()]


def rate_bars(clips: Iterable[Clip]) -> list[Bar]:
    """Files of each frame rate, the commonest first."""
    rates = Counter(f"{clip.fps:.2f}".rstrip("0").rstrip(".") for clip in clips)
    return [
        Bar(f"{rate} fps", (count / max(rates.values()),), f"{count}")
        for rate, count in rates.most_common(MOST_RATES)
    ]


def frame_bars(clips: Sequence[Clip]) -> list[Bar]:
    """Frames that are used and those that are dropped; nothing where there are no pictures."""
    if not clips:
        return []
    used, dropped = sum(clip.frames_used for clip in clips), sum(clip.frames_dropped for clip in clips)
    whole = max(1, used + dropped)
    return [Bar("frames", (used / whole, dropped / whole), f"{used / whole:.0%} used")]
