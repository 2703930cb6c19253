"""Histories of a store that two workspaces share, drawn by hypothesis and compared with a plain model."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bench.faults.clips import Clip, ClipContext, SharedWorkspace, keys_of, snapshot_of
from bench.faults.expected import Expected, Ran, Result, Space
from bench.faults.injector import DONE, KILLED, Failure, Point, run_here
from bench.faults.keeper import PARTS, QUARANTINED, Harmed, Run, State, state_of
from bench.faults.object_store import object_store
from bench.faults.sleeper import Sleeper
from ltxcore.execution import sweep
from ltxcore.jobs.estimate.figures import Planned
from ltxcore.jobs.explain import missing_keys
from ltxcore.pipeline.base.contract import PROBE, STAGES
from ltxcore.pipeline.base.stamp import read_manifest
from ltxcore.store import lease
from ltxcore.store.blobs import Blobs, read_json
from ltxcore.store.compact import Compacted, compact
from ltxcore.store.index import Overtaken, damaged
from ltxcore.store.lease import writing
from ltxcore.store.verify import forget_broken, verify

SPACES = ("one", "two")
DAYS = (1.0, 30.0, 1.0, 0.0)
PASSED = (40.0, 2.0, 40.0, 2.0, 0.5, 0.0)
DATA = (".safetensors", ".arrow", ".0")
END = {DONE: "done", KILLED: "killed"}
FAILURES: tuple[Failure, ...] = ("stop", "stop", "stop", "EIO", "ENOSPC", "lost answer")
NEVER = Point(0, "", "stop")

spaces = st.sampled_from(("one", "one", "two"))
clips = st.builds(Clip, st.integers(0, 7), st.integers(0, 3))
faults = st.one_of(
    st.just(NEVER), st.builds(Point, st.integers(1, 120), st.just(""), st.sampled_from(FAILURES))
)


@dataclass(frozen=True)
class PlannedClips(ClipContext, Planned):
    """A context of data that no run has seen yet."""


def make_older(root: Path, days: float) -> None:
    """Let days pass for the files below a folder."""
    for path in root.rglob("*"):
        info = path.stat()
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns - round(days * 86_400e9)))


class SimulatedClock:
    """The clock of those who wait for a lease: waiting takes no time."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def monotonic(self) -> float:
        """Seconds."""
        return self._now_s

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self._now_s += seconds


class Histories(RuleBasedStateMachine):
    """One history. Every rule leaves the store and the model in agreement, or says what was harmed."""

    happened: ClassVar[Counter[str]] = Counter()
    """What all histories of this process were made of."""

    def __init__(self) -> None:
        super().__init__()
        self.happened["histories"] += 1
        shared = Path("/dev/shm")  # noqa: S108 - a disk in memory: what is tried is order, not speed
        self.root = Path(tempfile.mkdtemp(dir=shared if shared.is_dir() else None))
        self.expected = Expected({name: Space() for name in SPACES})
        self.state: State = {}
        self.data: dict[str, dict[str, Clip]] = {name: {} for name in SPACES}
        self.sleeper: Sleeper | None = None
        self.runs = 0
        self.half_swept = False
        """Whether a sweep was killed: what it left half may be taken for young by the next."""
        self.clock = mock.patch.object(lease, "time", SimulatedClock())
        self.clock.start()

    @initialize(remote=st.booleans(), data=st.tuples(clips, clips, clips))
    def begin(self, remote: bool, data: tuple[Clip, Clip, Clip]) -> None:
        """On a disk or an object store, after two runs, of which the second may have left something over."""
        self.blobs = object_store(self.root / "objects") if remote else Blobs(self.root / "store")
        self.spaces = {name: SharedWorkspace(self.root / name, self.blobs) for name in SPACES}
        self.data["two"]["a"] = data[0]
        for clip in data[1:]:
            self.data["one"]["a"] = clip
            self.run("one", set(), NEVER, "nothing")

    def teardown(self) -> None:
        """After every history `verify` says whole, and the next run ends as if nothing had happened."""
        try:
            if sys.exception() is not None:
                return
            self.wake()
            found = verify(self.blobs).broken, [damaged(self.blobs, part) for part in ("media", *PARTS)]
            if any([found[0], *found[1]]):
                raise Harmed(f"verify names {found}")
            self.run(SPACES[self.runs % 2], set(), NEVER, "nothing")
        finally:
            self.clock.stop()
            shutil.rmtree(self.root)

    @rule(
        name=spaces,
        clip=st.sampled_from("ab"),
        becomes=st.none() | clips | clips,
        broken=st.sets(st.integers(0, 7), max_size=1),
        fault=faults,
        meanwhile=st.sampled_from(("nothing", "nothing", "gc here", "gc there", "compact")),
    )
    def change_and_run(
        self, name: str, clip: str, becomes: Clip | None, broken: set[int], fault: Point, meanwhile: str
    ) -> None:
        """A clip is added, replaced, restored or withdrawn; then the data stages run.

        The run may be killed, and somebody may tidy up between its stages.
        """
        if becomes is not None:
            self.data[name][clip] = becomes
        elif len(self.data[name]) > 1:
            self.data[name].pop(clip, None)
        self.explain(name)
        self.run(name, broken, fault, meanwhile)
        self.explain(name)

    def run(self, name: str, broken: set[int], fault: Point, meanwhile: str) -> None:
        """Run the data stages of a workspace."""
        self.runs += 1
        run = Run(self.spaces[name], f"run-{self.runs}", dict(self.data[name]), broken)
        other = next(other for other in SPACES if other != name)
        between: Mapping[str, Callable[[], object]] = {
            "nothing": lambda: None,
            "compact": self._compact,
            "gc here": lambda: sweep.apply(run.space, 0),
            "gc there": lambda: sweep.apply(self.spaces[other], 0),
        }
        stay: set[str] = set(self.state)
        if meanwhile == "gc here":
            # Which runs are the newest changes in its course; what is pinned or another's does not.
            stay = self.expected.pinned(name) | self.expected.named_by(other)
        elif meanwhile == "gc there":
            stay = self.expected.must_stay(other, 0)
        end = self._do("run", lambda: run.work(between[meanwhile]), fault, stay)
        wanted = self._note(name, run)
        if meanwhile == "gc here":
            # While a run goes on, a sweep of its workspace leaves the references to what it takes.
            self.expected.spaces[name].unfinished |= self.expected.named_by(name)
        for swept in {"gc here": [name], "gc there": [other]}.get(meanwhile, []):
            self._forget_what_went(swept)
        if end == DONE and (missing := wanted - self.state.keys()):
            raise Harmed(f"the run is done, and {missing} are not there")
        if end != DONE:
            self.expected.spaces[name].unfinished |= wanted

    @rule(
        what=st.sampled_from(("gc", "compact", "both")),
        name=spaces,
        passed=st.sampled_from(PASSED),
        days=st.sampled_from(DAYS),
        fault=faults,
        woken=st.booleans(),
    )
    def tidy(self, what: str, name: str, passed: float, days: float, fault: Point, woken: bool) -> None:
        """Days pass, and somebody sweeps, compacts, or both."""
        self._wait(passed)
        if what != "compact":
            self.gc(name, days, fault)
        if what != "gc":
            self.compact(fault, woken)

    def gc(self, name: str, days: float, fault: Point) -> None:
        """A sweep takes nothing that is named or young, and when it ends, everything else."""
        stay, before = self.expected.must_stay(name, days), len(self.state)
        end = self._do("gc", lambda: sweep.apply(self.spaces[name], days), fault, stay)
        self.happened["samples swept"] += before - len(self.state)
        self._forget_what_went(name)
        if end != DONE:
            self.half_swept = True
            return
        self.expected.spaces[name].unfinished.clear()
        if not self.half_swept and (left := self.expected.must_go(days) & self.state.keys()):
            raise Harmed(f"nothing needs {left}, and they were not swept")

    def compact(self, fault: Point, woken: bool) -> None:
        """Compaction keeps every sample equal to the bit, even if a sleeper wakes up in the middle of it."""

        def beside_a_sleeper() -> None:
            try:
                self._compact()
            except Overtaken:
                self.happened["compact: overtaken"] += 1

        with self._waking() if woken else nullcontext():
            work = beside_a_sleeper if woken and self.sleeper is not None else self._compact
            self._do("compact", work, fault, set(self.state))
        self.expected.moved |= dict.fromkeys(self.state, self.expected.now)

    @rule(
        what=st.sampled_from(("sleep", "wake", "sleep", "damage", "pin", "release")),
        name=spaces,
        number=st.integers(0, 99),
        part=st.sampled_from(tuple(PARTS)),
        clip=clips,
    )
    def see_to_it(self, what: str, name: str, number: int, part: str, clip: Clip) -> None:
        """A run is pinned or released, a file damaged and mended, a writer suspended or woken."""
        if what in ("pin", "release"):
            self.pin(name, number, what == "pin")
        elif what == "damage":
            self.spoil_and_repair(number)
        elif self.sleeper is None:
            self.fall_asleep(part, clip)
        else:
            self.wake()

    def pin(self, name: str, number: int, keep: bool) -> None:
        """A run is pinned, or no longer."""
        runs = self.expected.spaces[name].runs
        if runs:
            run = sorted(runs)[number % len(runs)]
            sweep.pin(self.spaces[name], run, keep)
            runs[run].pinned = keep
            self.happened["runs pinned or released"] += 1

    def spoil_and_repair(self, number: int) -> None:
        """Of a file that is damaged from outside `verify` names every sample, and no other."""
        files = sorted(file for file in self.blobs.walk("") if file.endswith(DATA))
        if not files:
            return
        file = files[number % len(files)]
        data = self.blobs.read(file)
        self.happened["files damaged"] += 1
        self.blobs.write(file, data[:-1] + bytes([data[-1] ^ 1]))
        found = verify(self.blobs).broken
        if {broken.file for broken in found} - {file}:
            raise Harmed(f"{file} was damaged, and verify names {found}")
        for part in {broken.part for broken in found}:
            with writing(self.blobs, part, "histories"):
                forget_broken(self.blobs, part, found)
        if not found:
            self.blobs.write(file, data)
        self._look(set(self.state) - {broken.key for broken in found})

    def explain(self, name: str) -> None:
        """What `ltx2 explain` says of each track of the data as it is now is what the store holds."""
        ctx = PlannedClips(self.spaces[name], planned=snapshot_of(self.data[name]))
        for track in missing_keys.all_tracks(ctx):
            held = self.state.get(track.key.value)
            wanted = missing_keys.MISSING if held is None else missing_keys.STORED
            if held is not None and held[1] == QUARANTINED:
                wanted = missing_keys.QUARANTINED
            if track.state != wanted:
                raise Harmed(f"explain says {track.state} of {track.what} {track.key}, and it is {wanted}")

    def fall_asleep(self, part: str, clip: Clip) -> None:
        """A writer that lost its lock is suspended in the middle of a commit."""
        ctx = PlannedClips(self.spaces["one"], planned=snapshot_of({"sleepy": clip}))
        self.sleeper = Sleeper(part, self.blobs, keys_of(ctx)[part])
        self._look(set(self.state))

    def wake(self) -> None:
        """It wakes up: it commits what is whole, or learns that it was overtaken."""
        if self.sleeper is not None:
            sleeper, self.sleeper = self.sleeper, None
            sleeper.wake()
            self.happened["writers overtaken" if sleeper.overtaken else "writers woken"] += 1
            self._look(set(self.state))

    @invariant()
    def it_is_whole(self) -> None:
        """The snapshots that results name can be read."""
        for name, space in self.expected.spaces.items():
            for snapshot in space.snapshots() - {""}:
                self.spaces[name].load_snapshot(snapshot)

    def _wait(self, days: float) -> None:
        """Let days pass: every file is older."""
        self.expected.now += days
        make_older(self.root, days)

    @contextmanager
    def _waking(self) -> Iterator[None]:
        """Wake the sleeper when something is about to be written in bulk, or deleted."""
        plain = {name: getattr(self.blobs, name) for name in ("write_all", "delete")}

        def waking(name: str) -> Callable[..., None]:
            def call(*rest: Any, **more: Any) -> None:
                if self.sleeper is not None:
                    self.sleeper.wake()
                plain[name](*rest, **more)

            return call

        with ExitStack() as patched:
            for name in plain:
                patched.enter_context(mock.patch.object(self.blobs, name, waking(name)))
            yield

    def _compact(self) -> None:
        for part in ("media", *PARTS):
            with writing(self.blobs, part, "histories"):
                compact(self.blobs, part, Compacted())

    def _do(self, what: str, work: Callable[[], object], fault: Point, stay: set[str]) -> str:
        """Do some work with a fault; returns how it ended. What must stay is there after it, as it was."""
        end = run_here(work, self.root, fault)
        self.happened[f"{what}: {END.get(end, 'ended by an error')}"] += 1
        if end != DONE and fault is NEVER:
            raise Harmed(f"failed without a fault: {end}")
        self._look(stay)
        return end

    def _look(self, stay: set[str]) -> None:
        """Take in what is committed now.

        Raises:
            Harmed: what must stay is gone, or something is not what it was.
        """
        before, self.state = self.state, state_of(self.blobs)
        if gone := (before.keys() & stay) - self.state.keys():
            raise Harmed(f"gone: {[(key, before[key]) for key in gone]}")
        for key in before.keys() & self.state.keys():
            if before[key] != self.state[key]:
                raise Harmed(f"{key} was {before[key]} and is {self.state[key]}")
        new = self.state.keys() - before.keys()
        # A quarantine has no file that could be young; it costs one more look at the clip.
        self.expected.took(key for key in new if self.state[key][1] != QUARANTINED)

    def _note(self, name: str, run: Run) -> set[str]:
        """Note what a run has left, whole or not; returns the keys that its data need."""
        space, folder, now = self.expected.spaces[name], run.space.run(run.name), self.expected.now
        snapshot = snapshot_of(run.clips)
        wanted = keys_of(PlannedClips(run.space, planned=snapshot))
        if folder.is_dir():
            space.runs[run.name] = noted = Ran(now)
            for stage in STAGES:
                entry = read_manifest(folder, stage)
                if entry is not None:
                    noted.results.add(str(Path(entry.stamp).parent))
        for part, stage in {"": PROBE, **PARTS}.items():
            for directory in (run.space.stages / stage.name).glob("*/stage.json"):
                place = run.space.relative(directory.parent)
                if place not in space.results:
                    keys = frozenset(wanted.get(part, {}))
                    space.results[place] = Result(stage.name, snapshot.id, keys, now)
            pointer = run.space.stages / stage.name / "newest.json"
            if pointer.exists():
                space.newest[stage.name] = f"stages/{stage.name}/{read_json(pointer)['fingerprint']}"
        if (run.space.runs / "newest.json").exists():
            space.newest_run = read_json(run.space.runs / "newest.json")["run"]
        if (run.space.snapshots / "latest.json").exists():
            space.latest = read_json(run.space.snapshots / "latest.json")["id"]
        return {key for keys in wanted.values() for key in keys}

    def _forget_what_went(self, name: str) -> None:
        """Take runs and results out of the model that a sweep took and that it might take."""
        space, place = self.expected.spaces[name], self.spaces[name]
        whole = {name for name in space.results if (place.root / name / "stage.json").exists()}
        space.results = {name: result for name, result in space.results.items() if name in whole}
        space.runs = {run: noted for run, noted in space.runs.items() if place.run(run).is_dir()}
