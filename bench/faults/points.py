"""One failing call of one path: what must hold after it, and after the work is done once more."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.faults.injector import DONE, KILLED, OF_A_PUT, ON_DISK, Point, count, run, run_here
from bench.faults.paths import CommitPath
from bench.faults.stored import State
from ltxcore.store.blobs import TEMPORARY


class Lost(AssertionError):
    """Something that was committed is gone, half there, or not what the work makes."""


@dataclass
class Trial:
    """A path with what is there before its work and after it, made once for all its points."""

    path: CommitPath
    place: Path
    """An empty folder of its own."""

    def __post_init__(self) -> None:
        self._before_root = self.place / "before"
        self.path.prepare(self._before_root)
        self.before = self.path.state(self._before_root)
        ended = self._copy("ended")
        self.calls = count(lambda: self.path.work(ended), ended)
        self.final = self.path.state(ended)
        if not self.before or self.final == self.before:
            raise ValueError(f"{self.path.name}: its work must change what was committed before")
        shutil.rmtree(ended)

    def points(self) -> Iterator[Point]:
        """Every call with every failure that it can have."""
        for number, call in enumerate(self.calls, 1):
            for failure in OF_A_PUT if call in ("put", "delete") else ON_DISK:
                yield Point(number, call, failure)
            if call == "write":
                yield Point(number, call, "short write")

    def one_of_each(self) -> Iterator[Point]:
        """The last call of each kind with each of its failures: the one that most depends on."""
        last = {call: number for number, call in enumerate(self.calls, 1)}
        return (point for point in self.points() if last[point.call] == point.number)

    def check(self, point: Point) -> None:
        """Let the work fail there, look, do it again, look again.

        Raises:
            Lost: with what was found, and where.
        """
        where = f"{self.path.name}: {point.failure} at call {point.number} ({point.call})"
        root = self._copy("tried")
        # A child costs more than the work; a stop needs none.
        tried = run_here if point.failure == "stop" else run
        end = tried(lambda: self.path.work(root), root, point)
        if point.failure.startswith(("kill", "stop")) and end not in (KILLED, DONE):
            raise Lost(f"{where}: ended with {end}")
        self._look(root, where)
        if end == DONE and self.path.state(root) != self.final:
            raise Lost(f"{where}: the work said that it was done, and it is not")
        if (
            end not in (DONE, KILLED)
            and point.call not in ("unlink", "put", "delete")
            and (left := self._leftovers(root))
        ):
            raise Lost(f"{where}: left {left}")
        again = tried(lambda: self.path.work(root), root, Point(0, "", "kill"))
        if again != DONE:
            raise Lost(f"{where}: the work cannot be done again: {again}")
        if (found := self.path.state(root)) != self.final:
            raise Lost(f"{where}: ends otherwise: {_differences(found, self.final)}")
        shutil.rmtree(root)

    def _look(self, root: Path, where: str) -> None:
        try:
            found = self.path.state(root)
        except Exception as error:
            raise Lost(f"{where}: {type(error).__name__}: {error}") from error
        for name, value in found.items():
            if value not in (self.before.get(name), self.final.get(name)):
                raise Lost(f"{where}: {name} is neither what it was nor what it becomes")
        kept = self.before.keys() & self.final.keys()
        if gone := sorted(kept - found.keys()):
            raise Lost(f"{where}: {gone} are gone")

    def _leftovers(self, root: Path) -> list[str]:
        return [path.name for path in root.rglob(f"*{TEMPORARY}")]

    def _copy(self, name: str) -> Path:
        root = self.place / name
        if root.exists():
            shutil.rmtree(root)
        shutil.copytree(self._before_root, root)
        return root


def _differences(found: State, wanted: State) -> list[str]:
    return sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
