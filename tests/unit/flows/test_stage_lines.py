"""What a run tells in a pipe: when a stage starts, every so often, and when it ends."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from flows.stage_lines import EVERY, StageLines
from ltxcore.pipeline.base.contract import PROBE, TRAIN
from ltxcore.pipeline.base.progress import Progress
from ltxcore.pipeline.base.stamp import ManifestEntry, write_manifest


class Night:
    """A run whose work is done while the watcher waits, on a clock of its own."""

    def __init__(self, run: Path) -> None:
        self.run, self.now = run, 0.0
        self.training = Progress(TRAIN.name, run)
        self.training.state = self.training.state.model_copy(update={"started_s": 0.0})

    def wait(self, seconds: float) -> None:
        self.now += 10
        if self.now == 10:
            self.training.begin(400, "steps", "loss 2.1")
        elif self.now <= 100:
            self.training.state = self.training.state.model_copy(update={"message": "loss 0.43"})
            self.training._written_s = 0
            self.training.at(int(self.now))
        else:
            write_manifest(self.run, entry(TRAIN.name, up_to_date=False))

    def alive(self) -> bool:
        return self.now < 110


def entry(stage: str, *, up_to_date: bool) -> ManifestEntry:
    return ManifestEntry(
        stage=stage,
        stamp="stamp",
        up_to_date=up_to_date,
        seconds=5400.0,
        process=1,
        counts={"done": 400, "hits": 0},
        why="first run",
    )


@pytest.mark.parametrize(("every", "lines"), [("30", 3), ("50", 1)])
def test_a_stage_has_lines_from_its_start_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: str, lines: int
) -> None:
    monkeypatch.setenv(EVERY, every)
    night, pipe = Night(tmp_path), io.StringIO()
    Progress(PROBE.name, tmp_path).begin(23, "files")
    write_manifest(tmp_path, entry(PROBE.name, up_to_date=True))
    watcher = StageLines(tmp_path, [PROBE.name, TRAIN.name], clock=lambda: night.now)
    watcher.watch(Console(file=pipe), night.alive, night.wait)
    printed = pipe.getvalue().splitlines()
    assert printed[:2] == [f"{PROBE.name}: started", f"{PROBE.name}: up to date (400 done, 0 hits)"]
    assert printed[2] == f"{TRAIN.name}: started"
    between = printed[3:-1]
    assert len(between) == lines
    assert all(
        line.startswith(f"{TRAIN.name}: ") and "/400 steps, loss 0.43, about" in line for line in between
    )
    assert between[0].endswith(" min left")
    assert printed[-1] == f"{TRAIN.name}: done in 1 h 30 min (400 done, 0 hits)"
