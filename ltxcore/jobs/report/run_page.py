"""One page about a run while it goes on: its stages, losses and samples, and where everything is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

from markupsafe import Markup

from ltxcore.jobs.report.run_summary import RunSummary, dataset_page, gallery, loras, read_summary
from ltxcore.pages import environment
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import RENDER, TRAIN, Stage, asked_stages
from ltxcore.pipeline.base.progress import duration, read_progress
from ltxcore.pipeline.base.stamp import read_manifest, read_stamp
from ltxcore.tracking.run_state import load_state

BARS: Final = "▁▂▃▄▅▆▇█"
COLUMNS: Final = 48
KEY: Final = "run"
DESCRIPTION: Final = "The run: its stages, losses, samples and files"
METRICS_FILE: Final = "metrics.jsonl"
Row = dict[str, str]


@dataclass
class LossCurve:
    """The losses of a training as a line of bars, read as they are written."""

    losses: list[float] = field(default_factory=list)
    _of: tuple[Path, int] | None = None
    """The file that was read, and which of that name: it is begun anew where a training continues."""
    _at_bytes: int = 0

    def read(self, file: Path) -> None:
        """Take in the whole lines that were added since the last look."""
        if not file.is_file():
            return
        of = (file, file.stat().st_ino)
        if of != self._of:
            self.losses, self._of, self._at_bytes = [], of, 0
        with file.open("rb") as lines:
            lines.seek(self._at_bytes)
            whole = lines.read().rpartition(b"\n")[0]
        if whole:
            self._at_bytes += len(whole) + 1
            self.losses += [float(json.loads(line)["loss"]) for line in whole.split(b"\n")]

    def __str__(self) -> str:
        """Means over equal shares of the steps, the highest as a full bar; empty where there are none."""
        if not self.losses:
            return ""
        columns = min(COLUMNS, len(self.losses))
        ends = [len(self.losses) * column // columns for column in range(columns + 1)]
        means = [sum(self.losses[begin:end]) / (end - begin) for begin, end in pairwise(ends)]
        lowest, span = min(means), (max(means) - min(means)) or 1.0
        return "".join(BARS[round((mean - lowest) / span * (len(BARS) - 1))] for mean in means)


@dataclass
class RunPage:
    """The page of a run, as often as it is asked for.

    Args:
        ctx: of the run.
        run: its folder.
        link: the address at which a browser reaches a file of the workspace.
        mlflow_url: of the MLflow server; empty where none runs.
    """

    ctx: Context
    run: Path
    link: Callable[[Path], str]
    mlflow_url: str = ""
    _curve: LossCurve = field(default_factory=LossCurve)

    def markdown(self, ended: str = "") -> str:
        """The page as it is now.

        Args:
            ended: how the run ended, in words; empty while it goes on.
        """
        summary = read_summary(self.ctx.workspace, self.run)
        training = self._training()
        if training is not None:
            self._curve.read(training / METRICS_FILE)
        losses = self._curve.losses
        return (
            environment.markdown(__package__)
            .get_template("run_page.md")
            .render(
                ended=ended,
                written=time.strftime("%Y-%m-%d %H:%M:%S"),
                rows=[self._row(stage) for stage in asked_stages(self.ctx.recipe)],
                curve=str(self._curve),
                losses=(f"{losses[0]:.4f}", f"{losses[-1]:.4f}") if losses else None,
                steps=len(losses),
                links=[Markup(f"[{text}]({url})") for text, url in self._links(summary, training)],  # noqa: S704
                log=str(self.ctx.workspace.logs),
            )
        )

    def _row(self, stage: Stage) -> Row:
        entry = read_manifest(self.run, stage)
        if entry is not None:
            counts = entry.counts
            state = "up to date" if entry.up_to_date else "done"
            if (stopped := read_stamp(self.ctx.workspace, entry).stopped_after) is not None:
                state += f", stopped and kept after step {stopped}"
            did = f"{counts.get('done', 0)} done, {counts.get('hits', 0)} found"
            return {"stage": stage.name, "state": state, "count": did, "time": duration(entry.seconds)}
        progress = read_progress(self.run, stage.name)
        if progress is None:
            return {"stage": stage.name, "state": "waits", "count": "", "time": ""}
        return {
            "stage": stage.name,
            "state": progress.message,
            "count": f"{progress.done} of {progress.total} {progress.unit}" if progress.total else "",
            "time": duration(time.time() - progress.started_s),
        }

    def _training(self) -> Path | None:
        """Where the run's training keeps its files; None before it has begun."""
        entry, root = read_manifest(self.run, TRAIN), self.ctx.workspace.root
        if entry is not None:
            return (root / entry.stamp).parent
        progress = read_progress(self.run, TRAIN.name)
        return root / progress.directory if progress is not None and progress.directory else None

    def _links(self, summary: RunSummary | None, training: Path | None) -> Iterator[tuple[str, str]]:
        space = self.ctx.workspace
        if summary is not None:
            if (page := dataset_page(space, summary)) is not None:
                yield "The dataset", self.link(page)
            if (page := gallery(space, summary)) is not None:
                yield "The gallery", self.link(page)
            for lora in loras(space, summary):
                yield lora.name, self.link(lora)
        for folder in sorted(self.run.glob("step-*")):
            entry = read_manifest(folder, RENDER)
            if entry is None:
                continue
            files = [space.root / file.path for file in read_stamp(space, entry).outcome.files]
            pages = [file for file in files if file.name == "index.html"]
            yield from (
                (f"Samples of step {int(folder.name.removeprefix('step-'))}", self.link(p)) for p in pages
            )
        if self.mlflow_url and training is not None and (training / "mlflow.json").is_file():
            known = load_state(training / "mlflow.json").delivered
            if known.run_id and known.experiment_id:
                address = f"{self.mlflow_url}/#/experiments/{known.experiment_id}/runs/{known.run_id}"
                # Else it shows the side of language models.
                address += "?workflowType=machine_learning"
                yield "The training in MLflow", address
