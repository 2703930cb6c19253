"""The figures of an estimate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

from ltxcore.memory.plan import MemoryPlan
from ltxcore.models.files.released import released_model
from ltxcore.models.files.source import ModelSource, resolve_model
from ltxcore.models.version import Version
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import Stage
from ltxcore.store.snapshot import Sample, Snapshot


@dataclass(frozen=True)
class Planned(Context):
    """A context whose snapshot has been planned in memory, and is not saved."""

    planned: Snapshot | None = None
    released: Version | None = None
    """The version that stands in, at its released size, for the model of the recipe."""

    @cached_property
    def source(self) -> ModelSource:
        """The model's files, or what is known of a released one that is not here."""
        if self.released is not None:
            return released_model(self.released, self.recipe.model, self.workspace.models)
        return resolve_model(self.recipe.model, self.workspace.models)

    @cached_property
    def snapshot(self) -> Snapshot:
        """The planned snapshot.

        Raises:
            ValueError: nothing is planned.
        """
        if self.planned is None:
            raise ValueError("nothing is planned")
        return self.planned


class Weights(Enum):
    """Where the weights of the model are that is planned for."""

    HERE = "here"
    MISSING = "missing"
    NOT_ASKED = "not asked"
    """Another model than the recipe's is planned for."""


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
    is_measured: bool = False
    """Whether the seconds are those of earlier runs on this machine; otherwise they are predicted."""
    pauses: int = 0
    """Of renderings: how many more there are in the pauses of the training."""


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
