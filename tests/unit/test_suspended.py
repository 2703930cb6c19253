"""Who is suspended before any change of a store and wakes up beside others destroys nothing of theirs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import count
from math import inf
from pathlib import Path

import pytest

from bench.faults.clips import Clip, SharedWorkspace, keys_of, snapshot_of
from bench.faults.histories import PlannedClips, SimulatedClock, make_older
from bench.faults.keeper import PARTS, Run, State, put, state_of
from bench.faults.object_store import object_store
from bench.faults.sleeper import Sleeper
from bench.faults.suspended import Suspended
from ltxcore.execution import sweep
from ltxcore.pipeline.data.keys import Key
from ltxcore.store import lease
from ltxcore.store.blobs import Blobs
from ltxcore.store.compact import Compacted, compact
from ltxcore.store.index import Overtaken
from ltxcore.store.lease import LeaseLost
from ltxcore.store.sweep import sweep_part
from ltxcore.store.verify import verify

Keys = Mapping[str, Key]
Work = Callable[[Blobs, str, Keys], object]

FIRST = {"a": Clip(0, 0), "b": Clip(1, 1)}
MORE = {**FIRST, "c": Clip(2, 2), "d": Clip(3, 3)}


def sweep_all(blobs: Blobs, part: str, keys: Keys) -> None:
    sweep_part(blobs, part, dict, inf)


def compact_part(blobs: Blobs, part: str, keys: Keys) -> None:
    compact(blobs, part, Compacted())


def put_keys(blobs: Blobs, part: str, keys: Keys) -> None:
    put(part, blobs, keys)


def sweep_and_make_again(blobs: Blobs, part: str, keys: Keys) -> None:
    sweep_all(blobs, part, keys)
    put(part, blobs, keys)


def compact_and_go_on(blobs: Blobs, part: str, keys: Keys) -> None:
    """So often that the numbers of old segments are free again."""
    put(part, blobs, keys)
    compact_part(blobs, part, keys)
    sweep_and_make_again(blobs, part, keys)
    compact_part(blobs, part, keys)


@pytest.fixture
def places() -> Iterator[Iterator[Path]]:
    """One new folder after the other, in memory where there is any: what is tried is order."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as root:
        yield (Path(root) / str(number) for number in count())


def opened(root: Path, remote: bool) -> Blobs:
    return object_store(root / "objects") if remote else Blobs(root / "store")


def keys_in(root: Path, part: str, clips: Mapping[str, Clip], blobs: Blobs) -> Keys:
    return keys_of(PlannedClips(SharedWorkspace(root / "one", blobs), planned=snapshot_of(clips)))[part]


@pytest.mark.parametrize("remote", [False, True], ids=["disk", "object store"])
@pytest.mark.parametrize("meanwhile", [sweep_and_make_again, compact_and_go_on])
@pytest.mark.parametrize("work", [sweep_all, compact_part, put_keys])
@pytest.mark.parametrize("part", PARTS)
def test_who_wakes_up_at_any_step_harms_nothing(
    places: Iterator[Path], part: str, work: Work, meanwhile: Work, remote: bool
) -> None:
    for number in count(1):
        root = next(places)
        blobs = opened(root, remote)
        first, more = (keys_in(root, part, clips, blobs) for clips in (FIRST, MORE))
        for name, clip in FIRST.items():
            put(part, blobs, keys_in(root, part, {name: clip}, blobs))
        sleeper = Sleeper(part, blobs, {key: more[key] for key in more.keys() - first.keys()})
        make_older(root, days=2)
        made: State = {}

        def others(blobs: Blobs = blobs, keys: Keys = more, made: State = made) -> None:
            meanwhile(blobs, part, keys)
            made.update(state_of(blobs))

        suspended = Suspended(blobs, number, others)
        with suppress(Overtaken):
            work(suspended.blobs, part, more)
        sleeper.wake()
        if not suspended.has_slept:
            break
        assert sleeper.overtaken
        assert made.keys() == more.keys()
        assert verify(blobs).broken == (), f"woken before step {number}"
        assert made.items() <= state_of(blobs).items(), f"woken before step {number}"
    assert number > 2, "something was tried"


@pytest.mark.parametrize("remote", [False, True], ids=["disk", "object store"])
@pytest.mark.parametrize("part", PARTS)
def test_who_slept_through_two_compactions_has_committed_nothing_and_learns_it(
    tmp_path: Path, part: str, remote: bool
) -> None:
    """The number of its segment is free again."""
    blobs = opened(tmp_path, remote)
    first, more = (keys_in(tmp_path, part, clips, blobs) for clips in (FIRST, MORE))
    sleeper = Sleeper(part, blobs, {key: more[key] for key in more.keys() - first.keys()})
    compact_and_go_on(blobs, part, first)
    before = state_of(blobs)
    sleeper.wake()
    assert sleeper.overtaken
    assert state_of(blobs) == before
    put(part, blobs, more)
    assert state_of(blobs).keys() == more.keys()
    assert verify(blobs).broken == ()


@pytest.mark.parametrize("remote", [False, True], ids=["disk", "object store"])
def test_a_sweep_that_wakes_up_at_any_step_takes_nothing_that_a_run_has_found_meanwhile(
    places: Iterator[Path], monkeypatch: pytest.MonkeyPatch, remote: bool
) -> None:
    """The run of another workspace needs what nothing needed before, and makes nothing new."""
    monkeypatch.setattr(lease, "time", SimulatedClock())
    for number in count(1):
        root = next(places)
        blobs = opened(root, remote)
        for part in PARTS:
            put(part, blobs, keys_in(root, part, FIRST, blobs))
        make_older(root, days=2)
        found: dict[str, str] = {}

        def others(blobs: Blobs = blobs, root: Path = root, found: dict[str, str] = found) -> None:
            # A lease is lost by who is suspended beyond it, the lock of a disk by who deletes its file.
            if not remote:
                blobs.delete(list(blobs.walk("locks")))
            Run(SharedWorkspace(root / "two", blobs), "run", FIRST).work()
            found.update(dict.fromkeys(state_of(blobs), "found"))

        suspended = Suspended(blobs, number, others)
        with suppress(Overtaken, LeaseLost):
            sweep.apply(SharedWorkspace(root / "one", suspended.blobs), 0)
        if not suspended.has_slept:
            break
        assert verify(blobs).broken == (), f"woken before step {number}"
        assert found.keys() <= state_of(blobs).keys(), f"woken before step {number}"
    assert number > 2, "something was tried"
