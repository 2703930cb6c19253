"""The code of each stage, found in the package that the contract names for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol, cast

from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import Stage
from ltxcore.pipeline.base.stamp import Stamp
from ltxcore.pipeline.base.work import Work
from ltxcore.pipeline.plan.stage_plan import StageMemory, TransformerMemory


class NoPackage(LookupError):
    """A stage whose code is asked for by its declaration, which names no package."""


class Request(Protocol):
    """What a stage's result depends on: a module `request.py`, which never loads torch."""

    def request(self, ctx: Context) -> dict[str, Any]:
        """All that the result depends on, as plain JSON."""

    def present(self, ctx: Context, stamp: Stamp) -> bool:
        """Whether everything that the stamp promises is in place, apart from the files that it names."""

    def needs(self, ctx: Context) -> Mapping[str, list[str]]:
        """The keys of the store that this request stands on, by part of the store."""


@dataclass(frozen=True)
class StageCode:
    """A stage with its code."""

    stage: Stage
    request: Request
    load_work: Callable[[], type[Work[Any]]]
    """Imports the work: not before there is something to do."""


def code_of(stage: Stage) -> StageCode:
    """The code of a stage: its request, and its work once that is asked for.

    Raises:
        NoPackage: the stage names none.
    """

    def load_work() -> type[Work[Any]]:
        work: type[Work[Any]] = _module(stage, ".work").WORK
        return work

    return StageCode(stage, cast(Request, _module(stage, ".request")), load_work)


def memory_of(stage: Stage) -> StageMemory | None:
    """What a stage needs of memory; None if it loads no models.

    Raises:
        NoPackage: it loads models, and names no package.
    """
    return cast(StageMemory, _module(stage, ".memory")) if stage.models else None


def placed_memory_of(stage: Stage) -> TransformerMemory | None:
    """The same of a stage that runs the transformer, whose weights the planner places; None of any other."""
    return cast(TransformerMemory, _module(stage, ".memory")) if "transformer" in stage.models else None


def _module(stage: Stage, name: str) -> ModuleType:
    if not stage.package:
        raise NoPackage(
            f"{stage.name} needs its {name[1:]}.py; set `package` in its Stage to the package that has it"
        )
    return import_module(name, stage.package)
