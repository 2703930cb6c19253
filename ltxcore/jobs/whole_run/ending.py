"""The end of a run: the dataset's page, and what is shown of the run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltxcore.execution.memory_plans import plan_rows
from ltxcore.jobs.pipeline import end_run
from ltxcore.jobs.report.run_summary import stage_rows
from ltxcore.memory.plan import GIB
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import STAGES
from ltxcore.pipeline.base.stamp import read_manifest, read_stamp


@dataclass(frozen=True)
class Table:
    """Rows to be shown, all with the same keys."""

    key: str
    rows: list[dict[str, Any]]
    description: str


@dataclass(frozen=True)
class File:
    """A file of the workspace to be linked."""

    key: str
    path: Path
    description: str


def end(ctx: Context, run: Path) -> Iterator[Table | File]:
    """Write the dataset's page, note that the run is over, and give what is to be shown of it."""
    rows = stage_rows(ctx.workspace, run)
    yield Table("summary", rows, "What each stage did")
    measured = {row["stage"]: int(max(row["peak GPU GiB"], row["peak GiB"]) * GIB) for row in rows}
    yield Table("memory", plan_rows(ctx, measured), "Predicted and measured peaks of memory")
    yield File("dataset-page", end_run(ctx, run), "The dataset with sound and token counts")
    for stage in STAGES:
        entry = read_manifest(run, stage)
        if entry is None:
            continue
        for file in read_stamp(ctx.workspace, entry).outcome.files:
            path = ctx.workspace.root / file.path
            if path.suffix == ".safetensors" or path.name in ("index.html", "gate.html"):
                key = path.stem.lower().replace("_", "-")
                yield File(f"{stage.name}-{key}", path, f"{stage.name}: {path.name}")
