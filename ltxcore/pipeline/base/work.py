"""The one shape of a stage's work: how much there is, load, unit by unit, and what came of it.

The runner, `ltxcore.execution.runner`, asks in this order. Where there is nothing to do, nothing is loaded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from ltxcore.memory.plan import MemoryPlan
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.progress import Progress
from ltxcore.pipeline.base.stamp import Outcome

Unit = TypeVar("Unit")


Part = TypeVar("Part")


def never() -> bool:
    """Nobody asks the work to stop."""
    return False


def loaded(part: Part | None) -> Part:
    """What `load` has loaded.

    Raises:
        RuntimeError: it was not called.
    """
    if part is None:
        raise RuntimeError("`load` has to be called before a unit is done")
    return part


@dataclass(frozen=True)
class Assignment:
    """What a work is given."""

    ctx: Context
    request: dict[str, Any]
    directory: Path
    """Of the request: where files of its own belong."""
    progress: Progress
    should_stop: Callable[[], bool] = never
    """Asked after each step by a work that can stop in the middle and go on later."""
    pause_at: int = 0
    """Of such a work: stop after this step. 0: go on to the end."""
    run: str = ""
    """The name of the run that it is done for."""


@dataclass(frozen=True)
class Place:
    """Where and how a work computes, which is decided when there is something to do."""

    ctx: Context
    """With the recipe of the memory plan."""
    device: str
    plan: MemoryPlan | None
    """None: the stage loads no models."""


@dataclass(frozen=True)
class Stopped:
    """The work was stopped on request before its end. It is no failure: the next run goes on."""

    kept: str
    """What of it is kept, in words."""
    paused_at: int = 0
    """The step that it was to pause at; 0: somebody stopped it."""


@dataclass(frozen=True)
class Result:
    """What came of a work."""

    outcome: Outcome
    request: dict[str, Any] | None = None
    """What was answered, where that is another request than the one that was asked. None: the same."""
    refusal: Exception | None = None
    """Why it must not count as done, although all of it was looked at."""


class Work(ABC, Generic[Unit]):
    """The work of one request. Constructing it loads no models, and importing its module no torch."""

    counted: ClassVar[str]
    """What the progress counts, e.g. `clips`."""
    doing: ClassVar[str]
    """What is being done, in words."""
    loading: ClassVar[str]
    """The name of the task that loads the models; empty where there are none."""
    unit: ClassVar[str]
    """The name of the task that does a unit."""
    retries: ClassVar[int] = 1
    """How often a unit is tried again in the same process, unless it ran out of memory."""

    def __init__(self, asked: Assignment) -> None:
        self.asked, self.ctx = asked, asked.ctx

    @abstractmethod
    def total(self) -> int:
        """How much there is to do, as the progress counts it. 0: nothing, and nothing is loaded."""

    def load(self, place: Place) -> None:
        """Load what the units need. From here on the work computes with the recipe of the memory plan."""
        self.ctx = place.ctx

    @abstractmethod
    def units(self) -> Iterable[Unit]:
        """What is committed together, in a fixed order. Asked after `load`."""

    @abstractmethod
    def do(self, unit: Unit) -> Stopped | None:
        """Do a unit and commit it: all of it, or, after a crash, none of it. Tells the progress.

        Raises:
            ClipsUndecided: some clips could not be decoded for reasons that are not theirs; the rest of the
                unit is committed.
        """

    @abstractmethod
    def outcome(self) -> Result:
        """What came of it, also of what was done before."""

    def after_stamp(self) -> None:
        """Drop what is not needed once the result is on record."""
