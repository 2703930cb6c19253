"""How fast stages were in earlier runs, from their stamps."""

from __future__ import annotations

import socket
from statistics import median

from ltxcore.stages.contract import TRAIN, Stage
from ltxcore.stages.stamp import Stamp
from ltxcore.store.blobs import read_model
from ltxcore.store.workspace import Workspace

NEWEST = 5


class Rates:
    """Seconds of a unit of work, by stage, on this machine."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._host = socket.gethostname()

    def seconds(self, stage: Stage, units: int, **model: str | int) -> float | None:
        """How long so many units would take, or None where no earlier run tells.

        Args:
            model: parts of the request that have to be equal: another model has another speed.
        """
        if units == 0:
            return 0.0
        folder = self._workspace.stages / stage.name
        stamps = [read_model(path, Stamp) for path in folder.glob("*/stage.json")]
        fitting = [
            stamp
            for stamp in sorted(stamps, key=lambda s: s.started, reverse=True)
            if stamp.host == self._host
            and stamp.outcome.counts.get("done", 0) > 0
            and all(stamp.request.get(key) == value for key, value in model.items())
        ]
        if not fitting:
            return None
        return units * median(_seconds_a_unit(stage, stamp) for stamp in fitting[:NEWEST])


def _seconds_a_unit(stage: Stage, stamp: Stamp) -> float:
    if stage is TRAIN:
        return float(stamp.outcome.facts["seconds_a_step"])
    return stamp.seconds / stamp.outcome.counts["done"]
