"""Clips whose decoding failed through no fault of theirs: they are no verdict, and no hole to train over."""

from __future__ import annotations

from collections.abc import Mapping

MOST_NAMED = 10


class ClipsUndecided(RuntimeError):
    """Raised when everything else of a batch is committed, so that the stage is not taken for done.

    Args:
        reasons: why, by sample id.
    """

    def __init__(self, reasons: Mapping[str, str]) -> None:
        named = "".join(f"\n  {name}: {why}" for name, why in list(reasons.items())[:MOST_NAMED])
        more = f"\n  and {len(reasons) - MOST_NAMED} more" if len(reasons) > MOST_NAMED else ""
        super().__init__(
            f"{len(reasons)} clips could not be decoded, for reasons that are not theirs:{named}{more}\n"
            "Everything else is kept. Run again; if it stays so, take them out of the dataset"
        )
