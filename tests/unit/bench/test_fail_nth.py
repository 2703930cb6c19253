"""Each call of each committing path fails once in every way that it can: nothing is lost, nothing half."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.faults.injector import DONE, Point, count, run
from bench.faults.paths import CommitPath, commit_paths
from bench.faults.points import Lost, Trial


@pytest.fixture
def memory_disk() -> Iterator[Path]:
    """A directory in memory where there is one: order is what is tried, not speed."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as place:
        yield Path(place)


@pytest.mark.parametrize("path", commit_paths(), ids=lambda path: path.name)
def test_nothing_is_lost_whichever_call_fails(path: CommitPath, memory_disk: Path) -> None:
    trial = Trial(path, memory_disk)
    points = list(trial.one_of_each())
    assert {point.call for point in points} == set(trial.calls)
    for point in points:
        trial.check(point)


@pytest.mark.parametrize("name", ["index and compaction", "checkpoint"])
def test_a_death_at_any_call_loses_nothing(name: str, memory_disk: Path) -> None:
    trial = Trial(next(path for path in commit_paths() if path.name == name), memory_disk)
    assert len(trial.calls) > 20
    for number, call in enumerate(trial.calls, 1):
        trial.check(Point(number, call, "stop"))


def _careless(root: Path) -> None:
    """Writes in place, as no path of the project may."""
    (root / "state").write_text("the new content, longer than before")


def test_a_careless_write_is_found(memory_disk: Path) -> None:
    """The trial itself can fail."""
    path = CommitPath(
        "careless",
        lambda root: (root.mkdir(), (root / "state").write_text("old")),
        _careless,
        lambda root: {"state": (root / "state").read_text()},
    )
    trial = Trial(path, memory_disk)
    assert trial.calls == ["open", "write"]
    with pytest.raises(Lost, match="neither what it was nor what it becomes"):
        trial.check(Point(2, "write", "short write"))


def test_calls_outside_of_the_folder_are_let_alone(memory_disk: Path, tmp_path: Path) -> None:
    def work() -> None:
        for folder in (tmp_path, memory_disk):
            handle = os.open(folder / "file", os.O_CREAT | os.O_WRONLY)
            with os.fdopen(handle, "wb", buffering=0) as file:
                assert file.write(b"0123") in (2, 4)
                os.fsync(file.fileno())
            os.replace(folder / "file", folder / "other")  # noqa: PTH105

    assert count(work, memory_disk) == ["open", "write", "fsync", "replace"]
    (memory_disk / "other").unlink()
    assert run(work, memory_disk, Point(2, "write", "short write")) == DONE
    assert ((memory_disk / "other").read_bytes(), (tmp_path / "other").read_bytes()) == (b"01", b"0123")
    assert run(work, memory_disk, Point(3, "fsync", "EIO")).startswith("OSError: [Errno 5]")
    assert run(work, memory_disk, Point(4, "replace", "kill")) == "killed"
