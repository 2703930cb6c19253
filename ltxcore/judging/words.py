"""A gate in words: one sentence for its page, its run and its notification."""

from __future__ import annotations

from ltxcore.judging.gate import Finding, Gate
from ltxcore.judging.paired import CONFIDENCE

NAMES = {"loss": "loss", "video_loss": "loss of the pictures", "sound_loss": "loss of the sound"}


def sentence(gate: Gate, model: str, against: int | None, became: int | None) -> str:
    """The verdict, what it rests on and what came of it.

    Args:
        gate: of the comparison.
        model: the champion's name.
        against: the version that it was compared with; None: there was none.
        became: the version that the LoRA became; None: it became none.
    """
    done = f"it is now version {became}" if became is not None else "the champion stays"
    if gate.verdict == "nothing to compare":
        if became is None:
            return f"Nothing to compare: {model} has no champion, and `decide: never` makes none."
        return f"Nothing to compare: {model} had no champion, and this LoRA is its version {became}."
    decisive = {"promoted": "holds", "refused": "fails", "undecided": "open"}.get(gate.verdict, gate.verdict)
    reasons = "; ".join(_reason(found) for found in gate.findings if found.answer == decisive)
    if gate.verdict == "promoted" and became is None:
        done = "`decide: never` leaves the champion, and `ltx2 promote` exchanges it"
    return f"{gate.verdict.capitalize()}, against version {against} of {model}: {reasons}; {done}."


def _reason(found: Finding) -> str:
    name, interval = NAMES[found.metric], found.interval
    if found.broken:
        return f"the {name} is no number on {found.broken} clips"
    if interval is None or found.answer == "too few clips":
        count = 0 if interval is None else interval.clips
        return f"the {name} could be compared on {count} clips that were held out before"
    way = "lower" if interval.mean < 0 else "higher"
    low, high = interval.low, interval.high
    return (
        f"the {name} is {abs(interval.mean):.4g} {way} on {interval.clips} clips "
        f"({CONFIDENCE:.0%} interval {low:+.4g} to {high:+.4g}, asked: {found.condition})"
    )
