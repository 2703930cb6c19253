"""A stage from nothing: the mean colour of every clip, kept in the workspace.

It has what every stage has: a place in the contract (`STAGE`), a request that says what its result depends
on, and a work whose units commit. A stage of the project has the same three in `contract.py`, `request.py`
and `work.py`; this one is handed to the runner as it is.

    python examples/hello_stage.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from demo import demo_datasets, output_directory

from ltxcore import Job
from ltxcore.execution.stage_code import StageCode
from ltxcore.media.decode import decode_frames
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import Stage
from ltxcore.pipeline.base.stamp import Outcome, Stamp, output_file
from ltxcore.pipeline.base.work import Assignment, Result, Work
from ltxcore.store.blobs import read_json, write_json
from ltxcore.store.snapshot import Sample

STAGE = Stage(
    name="mean-colour",
    title="the mean colour of every clip",
    version="1",  # raised with every change to what it writes
    pool="cpu",
    inputs=("probe-media",),
    models=(),  # parts of LTX-2 that it loads; with some, its package has a memory.py
    outputs=("colours",),
    ram_gib=2,  # more, and the watchdog ends it
    writes="",  # the part of the store that it alone may write; here: files of its own folder
)


class MeanColourRequest:
    """What the result depends on. Asked before anything starts, so it imports nothing large."""

    def request(self, ctx: Context) -> dict[str, Any]:
        """All of it as plain JSON: another value here is another result, in a folder of its own."""
        return {"data": ctx.require_snapshot(STAGE).data_id}

    def present(self, ctx: Context, stamp: Stamp) -> bool:
        """The files that the stamp names are checked anyway; there is nothing else."""
        return True

    def needs(self, ctx: Context) -> dict[str, list[str]]:
        """Keys of the store that must not be swept away while this result stands: none."""
        return {}


class MeanColour(Work[Sample]):
    """A clip is a unit: what was measured before a crash is not measured again."""

    counted, doing = "clips", "measuring colours"
    loading, unit = "", "measure-clip"

    def __init__(self, asked: Assignment) -> None:
        super().__init__(asked)
        self._file = asked.directory / "colours.json"
        self._known: dict[str, list[float]] = read_json(self._file) if self._file.exists() else {}
        self._waiting = [
            s for s in self.ctx.snapshot.samples if s.kind == "video" and s.id not in self._known
        ]

    def total(self) -> int:
        return len(self._waiting)

    def units(self) -> Iterator[Sample]:
        yield from self._waiting

    def do(self, unit: Sample) -> None:
        root = Path(self.ctx.snapshot.roots[unit.dataset])
        frames = decode_frames(root / unit.path, unit.frames, unit.geometry)
        self._known[unit.id] = [round(float(value), 1) for value in frames.mean(axis=(0, 1, 2))]
        write_json(self._file, self._known)  # the commit: whole or not at all
        self.asked.progress.advance()

    def outcome(self) -> Result:
        done = len(self._waiting)
        counts = {"clips": len(self._known), "done": done, "hits": len(self._known) - done}
        return Result(Outcome(counts=counts, files=(output_file(self.ctx.workspace, self._file),)))


MEAN_COLOUR = StageCode(STAGE, MeanColourRequest(), lambda: MeanColour)

if __name__ == "__main__":
    output = output_directory()
    job = Job(output / "workspace", demo_datasets(output, "blue-box-up", "red-disc-right"))
    job.run("probe-media")
    stamp = job.run(MEAN_COLOUR)
    colours = json.loads((job.workspace.root / stamp.outcome.files[0].path).read_text())
    for clip, (red, green, blue) in colours.items():
        print(f"{clip}: red {red}, green {green}, blue {blue}")
    again = Job(output / "workspace", demo_datasets(output, "blue-box-up", "red-disc-right"))
    again.run("probe-media")
    print("nothing is measured again" if again.run(MEAN_COLOUR) == stamp else "it was measured again")
