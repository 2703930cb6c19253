"""Clips that could not be decoded for a reason outside the file (ffmpeg killed, disk full): neither accepted
nor rejected, and never skipped silently."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from ltxcore.media.errors import FolderGone, Undecided

MOST_NAMED = 10


class ClipsUndecided(RuntimeError):
    """Raised after everything else of a batch is committed, so that the stage does not count as done.

    Args:
        reasons: the reason by sample id. A missing folder is reported once.
    """

    def __init__(self, reasons: Mapping[str, Undecided]) -> None:
        self.reasons = dict(reasons)
        folders = Counter(str(why) for why in reasons.values() if isinstance(why, FolderGone))
        others = [f"{name}: {why}" for name, why in reasons.items() if not isinstance(why, FolderGone)]
        lines = [*(f"{why} ({count} clips)" for why, count in folders.items()), *others[:MOST_NAMED]]
        if len(others) > MOST_NAMED:
            lines.append(f"and {len(others) - MOST_NAMED} more")
        super().__init__(
            f"{len(reasons)} clips could not be decoded, for reasons that are not theirs:\n"
            + "".join(f"  {line}\n" for line in lines)
            + f"Everything else is kept. {_remedy(bool(folders), bool(others))}"
        )


def _remedy(folders: bool, files: bool) -> str:
    if not folders:
        return "Run again; if it stays so, take them out of the dataset"
    remedy = "Put the folder back, or write its new place as instance_data_dir, and run again"
    return f"{remedy}; files for which it stays so, take out of the dataset" if files else remedy
