"""The gate page: the verdict in a sentence, intervals in green, amber and red, the clips that moved most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ltxcore.config.promotion_settings import PromotionSettings
from ltxcore.judging.champions import Lineage
from ltxcore.judging.frozen_clips import FrozenClip
from ltxcore.judging.gate import Finding, Gate
from ltxcore.judging.paired import (
    CONFIDENCE,
    METRICS,
    Interval,
    Losses,
    clip_metric,
    differences,
    interval_of,
)
from ltxcore.judging.words import NAMES
from ltxcore.pages import environment
from ltxcore.store.blobs import write_atomic

COLOURS: Final = {"holds": "green", "fails": "red", "open": "amber", "too few clips": "amber"}
MOVED: Final = 5
"""Clips that are shown on either end."""
LONG: Final = 160
"""Characters of a caption that are shown."""


@dataclass(frozen=True)
class Judged:
    """All that the page shows."""

    sentence: str
    gate: Gate
    settings: PromotionSettings
    losses: Mapping[str, Mapping[str, Losses]]
    """Side -> clip -> its losses."""
    clips: Mapping[str, FrozenClip]
    new: frozenset[str]
    """Clips that were held out for the first time."""
    left_out: Mapping[str, str]
    lineage: Lineage
    against: int | None
    """The champion's version."""
    training: str
    seed: int


@dataclass(frozen=True)
class Row:
    """A measured difference."""

    name: str
    interval: Interval | None
    colour: str
    note: str = ""


@dataclass(frozen=True)
class Moved:
    """A clip, with the loss of both."""

    clip: str
    caption: str
    champion: float
    challenger: float

    @property
    def by(self) -> float:
        """How much its loss has changed."""
        return self.challenger - self.champion


def gate_rows(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """The gate as a table: in Prefect's UI, and in the champion's record."""
    return [
        {
            "metric": found.metric,
            "asked": found.condition,
            "answer": found.answer,
            **_figures(found.interval),
            **({"without a number": found.broken} if found.broken else {}),
        }
        for found in findings
    ]


def _figures(interval: Interval | None) -> dict[str, Any]:
    if interval is None:
        return {"clips": 0}
    return {
        "difference": float(f"{interval.mean:.6g}"),
        "from": float(f"{interval.low:.6g}"),
        "to": float(f"{interval.high:.6g}"),
        "clips": interval.clips,
        "interval": interval.method,
    }


def write_gate_page(path: Path, judged: Judged) -> None:
    """Write the page: one file that needs no server and no other file."""
    text = (
        environment.html(__package__)
        .get_template("gate.html")
        .render(
            title=f"Gate of {judged.settings.model}",
            judged=judged,
            confidence=f"{CONFIDENCE:.0%}",
            decisive=[_row(found) for found in judged.gate.findings],
            tables=[(title, rows) for title, rows in _tables(judged) if any(row.interval for row in rows)],
            moved=_moved(judged),
            left_out=[(media_id, why) for media_id, why in sorted(judged.left_out.items())],
        )
    )
    write_atomic(path, text.encode())


def _row(found: Finding) -> Row:
    note = f"{found.condition}: {found.answer}"
    if found.broken:
        note += f", no number on {found.broken} clips"
    return Row(NAMES[found.metric], found.interval, COLOURS[found.answer], note)


def _tables(judged: Judged) -> Iterator[tuple[str, list[Row]]]:
    """What else was measured, which decides nothing."""
    old = [media_id for media_id in judged.clips if media_id not in judged.new]
    if judged.against is not None:
        yield (
            "This LoRA against the champion, part by part",
            [*_parts(judged, "challenger", "champion", old), *_by_sigma(judged, old)],
        )
        new = sorted(judged.new & judged.clips.keys())
        yield "On clips held out for the first time", _parts(judged, "challenger", "champion", new)
        yield "The champion against the base", _parts(judged, "champion", "base", list(judged.clips))
    yield "This LoRA against the base", _parts(judged, "challenger", "base", list(judged.clips))


def _parts(judged: Judged, side: str, other: str, clips: Sequence[str]) -> list[Row]:
    found = (
        (NAMES[metric], differences(_of(judged, side, clips), _of(judged, other, clips), metric).by_clip)
        for metric in METRICS
    )
    return [_plain(name, list(by_clip.values()), judged.seed) for name, by_clip in found]


def _by_sigma(judged: Judged, clips: Sequence[str]) -> Iterator[Row]:
    pairs = [(judged.losses["challenger"].get(c, {}), judged.losses["champion"].get(c, {})) for c in clips]
    for kind, name in (("video", "pictures"), ("audio", "sound")):
        for sigma in sorted({sigma for new, _ in pairs for sigma in new.get(kind, {})}, key=float):
            both = [(new.get(kind, {}).get(sigma), old.get(kind, {}).get(sigma)) for new, old in pairs]
            values = [new - old for new, old in both if new is not None and old is not None]
            yield _plain(f"{name} at sigma {sigma}", values, judged.seed)


def _of(judged: Judged, side: str, clips: Sequence[str]) -> dict[str, Losses]:
    return {clip: judged.losses[side][clip] for clip in clips if clip in judged.losses[side]}


def _plain(name: str, values: Sequence[float], seed: int) -> Row:
    if len(values) < 2:
        return Row(name, None, "")
    interval = interval_of(values, seed)
    colour = "green" if interval.high < 0 else "red" if interval.low > 0 else "amber"
    return Row(name, interval, colour)


def _moved(judged: Judged) -> list[tuple[str, list[Moved]]]:
    """The clips whose loss fell most, and those whose loss rose most."""
    if judged.against is None:
        return []
    found = []
    for media_id, clip in judged.clips.items():
        new, old = (clip_metric(judged.losses[side][media_id], "loss") for side in ("challenger", "champion"))
        if new is not None and old is not None:
            found.append(Moved(clip.sample.id, clip.caption[:LONG], old, new))
    found = sorted((moved for moved in found if moved.by == moved.by), key=lambda moved: moved.by)
    better, worse = [m for m in found if m.by < 0][:MOVED], [m for m in found[::-1] if m.by > 0][:MOVED]
    return [("Better by most", better), ("Worse by most", worse)]
