"""The runner: what it does with a stage's work, on a stage of the project and on works made for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from ltxcore.config.recipe import Recipe
from ltxcore.execution.execution import find_result
from ltxcore.execution.memory_budget import StageOutOfMemory
from ltxcore.execution.runner import Hooks, open_execution, run_work
from ltxcore.execution.stage_code import StageCode
from ltxcore.media.errors import Undecided
from ltxcore.memory.plan import GIB, OverBudget
from ltxcore.pipeline.base.clips_undecided import ClipsUndecided
from ltxcore.pipeline.base.context import Context, context_here
from ltxcore.pipeline.base.contract import TEXT, Stage
from ltxcore.pipeline.base.progress import read_progress
from ltxcore.pipeline.base.stamp import Outcome, Stamp, find_stamp, read_manifest
from ltxcore.pipeline.base.work import Assignment, Result, Stopped, Work
from ltxcore.store.workspace import Workspace
from tests.stages.conftest import Bench


def test_a_stage_runs_without_an_orchestrator(bench: Bench) -> None:
    bench.probe()
    ctx, run = bench.ctx, bench.ctx.workspace.run("a")
    execution = open_execution(TEXT, ctx, run)
    meanwhile = open_execution(TEXT, bench.ctx, ctx.workspace.run("b"))
    assert execution is not None
    assert meanwhile is not None
    stamp = run_work(execution)
    assert isinstance(stamp, Stamp)
    captions = stamp.outcome.counts["captions"]
    assert stamp.outcome.counts == {"captions": captions, "done": captions, "hits": 0, "cut": 0}
    assert stamp.outcome.facts["memory"]["strategy"]
    state = read_progress(run, TEXT.name)
    assert state is not None
    assert (state.done, state.unit, state.message) == (captions, "captions", "done")
    assert find_result(TEXT, bench.ctx)[1] == stamp

    assert run_work(meanwhile) is None, "the other run has done it"
    assert open_execution(TEXT, bench.ctx, ctx.workspace.run("c")) is None
    for name in "bc":
        entry = read_manifest(ctx.workspace.run(name), TEXT)
        assert entry is not None
        assert (entry.up_to_date, entry.counts["hits"]) == (True, captions)


STAGE = Stage(
    name="count-sheep",
    title="count",
    version="1",
    pool="cpu",
    inputs=(),
    models=(),
    outputs=(),
    ram_gib=1,
)
ASKED = {"sheep": 3}


@dataclass
class Troubles:
    """What happens at a unit, each time that it is tried."""

    at: dict[int, list[Exception]] = field(default_factory=dict)
    tried: list[int] = field(default_factory=list)


def code_with(troubles: Troubles, **own: Any) -> StageCode:
    class CountSheep(Work[int]):
        counted, doing, loading, unit = "sheep", "counting", "", "count"
        troubles_met: ClassVar[Troubles] = troubles

        def __init__(self, asked: Assignment) -> None:
            super().__init__(asked)
            self.counted_so_far = 0

        def total(self) -> int:
            return 3

        def units(self) -> Iterator[int]:
            yield from range(3)

        def do(self, unit: int) -> Stopped | None:
            troubles.tried.append(unit)
            if waiting := troubles.at.get(unit):
                raise waiting.pop(0)
            if self.asked.should_stop():
                return Stopped(f"{self.counted_so_far} sheep")
            self.counted_so_far += 1
            self.asked.progress.advance()
            return None

        def outcome(self) -> Result:
            return Result(Outcome(counts={"done": self.counted_so_far}), **own)

    request = SimpleNamespace(
        request=lambda ctx: ASKED, present=lambda ctx, stamp: True, needs=lambda ctx: {}
    )
    return StageCode(STAGE, request, lambda: CountSheep)


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return context_here(Workspace(tmp_path / "workspace"), Recipe())


def run(ctx: Context, code: StageCode, **more: Any) -> Stamp | Stopped | None:
    execution = open_execution(STAGE, ctx, ctx.workspace.run("a"), code=code)
    assert execution is not None
    return run_work(execution, **more)


def test_a_unit_that_failed_is_tried_once_more(ctx: Context) -> None:
    troubles = Troubles({1: [ValueError("no luck")]})
    stamp = run(ctx, code_with(troubles))
    assert troubles.tried == [0, 1, 1, 2]
    assert isinstance(stamp, Stamp)
    assert stamp.outcome.counts == {"done": 3}


def test_a_unit_that_fails_twice_ends_the_stage_without_a_stamp(ctx: Context) -> None:
    troubles = Troubles({1: [ValueError("no luck"), ValueError("no luck again")]})
    with pytest.raises(ValueError, match="no luck again"):
        run(ctx, code_with(troubles))
    assert troubles.tried == [0, 1, 1]
    assert find_stamp(ctx.workspace, STAGE, ASKED) is None


def test_out_of_memory_is_not_tried_again_in_this_process(ctx: Context) -> None:
    troubles = Troubles({1: [MemoryError("2 GiB")]})
    with pytest.raises(StageOutOfMemory):
        run(ctx, code_with(troubles))
    assert troubles.tried == [0, 1]


def test_undecided_clips_stop_no_unit_and_are_named_together(ctx: Context) -> None:
    def undecided(clip: str) -> list[Exception]:
        return [ClipsUndecided({clip: Undecided("ffmpeg was killed")}) for _ in range(2)]

    troubles = Troubles({0: undecided("a.mp4"), 1: undecided("b.mp4")})
    with pytest.raises(ClipsUndecided, match=r"(?s)2 clips.*a\.mp4.*b\.mp4"):
        run(ctx, code_with(troubles))
    assert troubles.tried == [0, 0, 1, 1, 2]
    assert find_stamp(ctx.workspace, STAGE, ASKED) is None


def test_what_was_stopped_has_no_stamp_and_says_what_is_kept(ctx: Context) -> None:
    class Impatient(Hooks):
        def device(self) -> AbstractContextManager[Callable[[], bool]]:
            return nullcontext(lambda: True)

    stopped = run(ctx, code_with(Troubles()), hooks=Impatient())
    assert stopped == Stopped("0 sheep")
    state = read_progress(ctx.workspace.run("a"), STAGE.name)
    assert state is not None
    assert state.stopped == "0 sheep"
    assert find_stamp(ctx.workspace, STAGE, ASKED) is None


def test_what_is_refused_has_no_stamp(ctx: Context) -> None:
    with pytest.raises(ValueError, match="too few"):
        run(ctx, code_with(Troubles(), refusal=ValueError("too few")))
    assert find_stamp(ctx.workspace, STAGE, ASKED) is None


def test_the_stamp_is_that_of_the_request_that_was_answered(ctx: Context) -> None:
    stamp = run(ctx, code_with(Troubles(), request={"sheep": 3, "tiled": ["x"]}))
    assert isinstance(stamp, Stamp)
    assert find_stamp(ctx.workspace, STAGE, {"sheep": 3, "tiled": ["x"]}) == stamp
    assert find_stamp(ctx.workspace, STAGE, ASKED) is None


def test_a_process_that_holds_more_than_a_stage_allows_may_call_it(ctx: Context, tmp_path: Path) -> None:
    """Only a limit that the recipe sets counts what the caller held before."""
    held = np.ones(int(STAGE.ram_gib * GIB), dtype=np.uint8)
    assert isinstance(run(ctx, code_with(Troubles())), Stamp)
    limited = context_here(
        Workspace(tmp_path / "limited"), Recipe.model_validate({"memory": {"ram_gib": STAGE.ram_gib}})
    )
    with pytest.raises(OverBudget, match=r"before it has loaded anything, and memory\.ram_gib allows 1\.00"):
        run(limited, code_with(Troubles()))
    del held
