"""The gate: from differences and conditions to a verdict, and what becomes of the new LoRA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ltxcore.config.promotion_settings import Condition, PromotionSettings
from ltxcore.judging.paired import Differences, Interval, interval_of

Answer = Literal["holds", "fails", "open", "too few clips"]
Verdict = Literal["promoted", "refused", "undecided", "too few clips", "nothing to compare"]


@dataclass(frozen=True)
class Finding:
    """One condition, and what was measured of it."""

    metric: str
    condition: str
    """As it reads: `better`, or `not worse by 0.01`."""
    interval: Interval | None
    """None with fewer than two clips."""
    answer: Answer
    broken: int = 0
    """Clips of which the challenger gives no number."""


@dataclass(frozen=True)
class Gate:
    """The verdict, with what it rests on."""

    verdict: Verdict
    findings: tuple[Finding, ...]
    takes: bool
    """Whether the challenger becomes the champion."""


def nothing_to_compare(settings: PromotionSettings) -> Gate:
    """The gate where there is no champion: the first LoRA becomes it, unless nothing is to be decided."""
    return Gate("nothing to compare", (), settings.decide == "auto")


def judge(settings: PromotionSettings, measured: Mapping[str, Differences], seed: int) -> Gate:
    """The verdict on a challenger.

    One condition that fails refuses it. Else one with too few clips, and then one whose interval says
    neither, leaves it undecided.

    Args:
        settings: the conditions.
        measured: metric -> differences, on the clips that decide.
        seed: of the resampling.
    """
    findings = tuple(
        finding(metric, condition, measured[metric], settings.min_clips, seed)
        for metric, condition in settings.when.asked.items()
    )
    verdict = verdict_of([found.answer for found in findings])
    passes = verdict == "promoted" or (verdict == "undecided" and settings.undecided == "take")
    return Gate(verdict, findings, passes and settings.decide == "auto")


def verdict_of(answers: Sequence[Answer]) -> Verdict:
    """What several conditions come to."""
    if "fails" in answers:
        return "refused"
    if "too few clips" in answers:
        return "too few clips"
    return "undecided" if "open" in answers else "promoted"


def finding(metric: str, condition: Condition, found: Differences, min_clips: int, seed: int) -> Finding:
    """What a condition comes to: a challenger that gives no number fails it, however few clips there are."""
    values = list(found.by_clip.values())
    interval = interval_of(values, seed) if len(values) > 1 else None
    broken = len(found.broken)
    if broken:
        answer: Answer = "fails"
    elif interval is None or interval.clips < min_clips:
        answer = "too few clips"
    else:
        answer = answer_of(condition, interval)
    return Finding(metric, in_words(condition), interval, answer, broken)


def answer_of(condition: Condition, interval: Interval) -> Answer:
    """Whether all of an interval lies where the condition wants it, none of it, or some."""
    if condition == "better":
        if interval.high < 0:
            return "holds"
        return "fails" if interval.low > 0 else "open"
    if interval.high <= condition.not_worse_by:
        return "holds"
    return "fails" if interval.low > condition.not_worse_by else "open"


def in_words(condition: Condition) -> str:
    """A condition as it reads."""
    return condition if isinstance(condition, str) else f"not worse by {condition.not_worse_by:g}"
