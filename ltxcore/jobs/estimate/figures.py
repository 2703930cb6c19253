"""The figures of an estimate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ltxcore.memory.plan import MemoryPlan
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import Stage
from ltxcore.store.snapshot import Sample, Snapshot


@dataclass(frozen=True)
class Planned(Context):
    """A context whose snapshot has been planned in memory, and is not saved."""

    planned: Snapshot | None = None

    @cached_property
    def snapshot(self) -> Snapshot:
        """The planned snapshot.

        Raises:
            ValueError: nothing is planned.
        """
        if self.planned is None:
            raise ValueError("nothing is planned")
        return self.planned


@dataclass(frozen=True)
class StageEstimate:
    """What one stage would do. None is a figure that is not known yet; `notes` say why."""

    stage: Stage
    to_do: int | None
    unit: str
    in_place: int | None = None
    disk_bytes: int | None = 0
    seconds: float | None = None
    notes: tuple[str, ...] = ()
    memory: MemoryPlan | None = None
    """What it is predicted to hold; None where it loads no model, or that is not known yet."""


@dataclass
class PlannedData:
    """The samples known so far, and the factor to all files."""

    snapshot: Snapshot | None
    scale: float = 1.0
    problems: list[str] = field(default_factory=list)

    @property
    def samples(self) -> Sequence[Sample]:
        """The samples that were looked at; empty where there is no snapshot."""
        return () if self.snapshot is None else self.snapshot.samples

    def scaled(self, number: float) -> int:
        """A number counted over the files that were looked at, extrapolated to all files."""
        return round(number * self.scale)
