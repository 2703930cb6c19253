"""A plain model of a store that two workspaces share: what must stay, whatever is swept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ltxcore.pipeline.base.contract import TEXT


@dataclass
class Result:
    """What one request of a stage stands on."""

    stage: str
    snapshot: str
    keys: frozenset[str]
    day: float
    """When it was made for certain; it may be younger."""


@dataclass
class Ran:
    """A run, and the results that it made or found."""

    day: float
    results: set[str] = field(default_factory=set)
    pinned: bool = False


@dataclass
class Space:
    """What a workspace holds."""

    runs: dict[str, Ran] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)
    newest: dict[str, str] = field(default_factory=dict)
    """Stage -> its newest result."""
    newest_run: str = ""
    latest: str = ""
    """The latest snapshot, empty before the first."""
    unfinished: set[str] = field(default_factory=set)
    """Keys that a run which was killed has asked for, or that a sweep beside a run left; a reference may
    still hold them."""

    def kept_runs(self, now: float, days: float) -> set[str]:
        """The runs that no sweep of what is older than `days` takes."""
        return {
            name
            for name, run in self.runs.items()
            if name == self.newest_run or run.pinned or now - run.day < days
        }

    def kept_results(self, now: float, days: float) -> set[str]:
        """The results that it does not take."""
        named = {name for run in self.kept_runs(now, days) for name in self.runs[run].results}
        named |= set(self.newest.values())
        return {name for name, result in self.results.items() if name in named or now - result.day < days}

    def snapshots(self) -> set[str]:
        """The snapshots that are read again: the latest, and those of results; captions alone need none."""
        return {self.latest} | {r.snapshot for r in self.results.values() if r.stage != TEXT.name}


@dataclass
class Expected:
    """Both workspaces, the clock, and how old each committed sample is."""

    spaces: dict[str, Space]
    now: float = 0.0
    """In days."""
    made: dict[str, float] = field(default_factory=dict)
    """Key -> the day when it was committed."""
    moved: dict[str, float] = field(default_factory=dict)
    """Key -> the last day when a file of its may have been written."""

    def took(self, keys: Iterable[str]) -> None:
        """Samples were committed now."""
        for key in keys:
            self.made[key] = self.moved[key] = self.now

    def must_stay(self, sweeper: str, days: float) -> set[str]:
        """The samples that a sweep of one workspace may not take: named, another's, or young."""
        stay = {key for key, day in self.made.items() if self.now - day < days}
        for name, space in self.spaces.items():
            kept = space.kept_results(self.now, days) if name == sweeper else set(space.results)
            stay.update(*(space.results[result].keys for result in kept))
        return stay

    def must_go(self, days: float) -> set[str]:
        """After a whole sweep: the samples that nothing holds any more and that are old."""
        held: set[str] = set()
        for space in self.spaces.values():
            held |= space.unfinished
            held.update(*(result.keys for result in space.results.values()))
        return {key for key, day in self.moved.items() if key not in held and self.now - day >= days}

    def named_by(self, name: str) -> set[str]:
        """The samples that the results of a workspace stand on."""
        return set().union(*(result.keys for result in self.spaces[name].results.values()))

    def pinned(self, name: str) -> set[str]:
        """The samples that its pinned runs stand on."""
        space = self.spaces[name]
        results = {result for run in space.runs.values() if run.pinned for result in run.results}
        return set().union(*(space.results[result].keys for result in results if result in space.results))
