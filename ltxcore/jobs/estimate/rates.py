"""How fast stages were in earlier runs, from their stamps."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from math import log
from statistics import median

from ltxcore.pipeline.base.contract import TRAIN, Stage
from ltxcore.pipeline.base.stamp import Stamp, whole_stamps
from ltxcore.store.workspace import Workspace

NEWEST = 5
LIKE = 2.0
"""Times as much work still is of like size."""


class Rates:
    """Seconds of a unit of work, by stage, on this machine."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._host = socket.gethostname()

    def seconds(self, stage: Stage, units: int, **model: str | int) -> float | None:
        """Predicted seconds for this many units; None without an earlier run.

        Args:
            model: parts of the request that must be equal, because another model has another speed.
        """
        if units == 0:
            return 0.0
        fitting = [
            stamp
            for _, stamp in whole_stamps(self._workspace, stage)
            if stamp.host == self._host
            and stamp.outcome.counts.get("done", 0) > 0
            and all(stamp.request.get(key) == value for key, value in model.items())
        ]
        if not fitting:
            return None
        alike = _of_like_size(fitting, units)[:NEWEST]
        return median(_seconds_of(stage, stamp, units) for stamp in alike)


def _of_like_size(stamps: Sequence[Stamp], units: int) -> list[Stamp]:
    """The runs nearest in size: in a small run most of the time is loading the model."""
    apart = [abs(log(stamp.outcome.counts["done"] / units)) for stamp in stamps]
    return [stamp for stamp, far in zip(stamps, apart, strict=True) if far <= min(apart) + log(LIKE)]


def _seconds_of(stage: Stage, stamp: Stamp, units: int) -> float:
    done = stamp.outcome.counts["done"]
    if stage is not TRAIN:
        return units * stamp.seconds / done
    step_s = float(stamp.outcome.facts["seconds_a_step"])
    # The rest is what every training takes: its model's load. Of one that was resumed there is no telling.
    return units * step_s + max(0.0, stamp.seconds - done * step_s)
