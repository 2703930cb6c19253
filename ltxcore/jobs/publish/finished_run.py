"""Opens a finished run of the pipeline by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ltxcore.config.base import Strict, parse
from ltxcore.config.recipe import Recipe
from ltxcore.execution.drawn_seed import FINISHED
from ltxcore.execution.sweep import UnknownRun
from ltxcore.pipeline.base.context import Context, context_here
from ltxcore.pipeline.base.contract import PROBE
from ltxcore.pipeline.base.stamp import read_manifest, read_stamp
from ltxcore.store.blobs import read_model
from ltxcore.store.workspace import Workspace

NEWEST = "newest"
REQUEST_FILE = "run.json"


class RunRequest(Strict):
    """The parameters of a run."""

    datasets: str
    """The dataset file."""
    recipe: dict[str, Any]
    workspace: str


def open_run(workspace: Workspace, name: str = NEWEST) -> tuple[Context, Path]:
    """The context at the end of a run, and the run's folder; by default of the newest that is finished.

    Raises:
        UnknownRun: there is no such run of the whole pipeline, or it was stopped before its end.
        ConfigError: its recipe has keys of another version of this project.
        DamagedFile: the pointer to the newest run, or the run's parameters, are damaged.
    """
    asked_for = _newest_finished(workspace) if name == NEWEST else name
    if asked_for is None:
        raise UnknownRun(f"{workspace.root} has no finished run yet; `ltx2 run` makes one")
    run = workspace.run(asked_for)
    request = run / REQUEST_FILE
    if not request.exists():
        raise UnknownRun(
            f"{workspace.root} has no run {run.name} of the whole pipeline; look into {run.parent}"
        )
    entry = read_manifest(run, PROBE)
    if entry is None or not (run / FINISHED).exists():
        raise UnknownRun(
            f"the run {run.name} has not come to its end: it was cancelled, has failed, or goes on; start it "
            "again with `ltx2 run`, or name a finished one"
        )
    asked = read_model(request, RunRequest)
    recipe = parse(Recipe, asked.recipe, str(request))
    snapshot = str(read_stamp(workspace, entry).outcome.facts["snapshot"])
    return context_here(workspace, recipe, Path(asked.datasets), snapshot), run


def _newest_finished(workspace: Workspace) -> str | None:
    """The name of the run of the whole pipeline that came to its end last."""
    ends = [file for file in workspace.runs.glob(f"*/{FINISHED}") if (file.parent / REQUEST_FILE).exists()]
    newest = max(ends, key=lambda file: file.stat().st_mtime_ns, default=None)
    return None if newest is None else newest.parent.name
