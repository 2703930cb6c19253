"""Opens a finished run of the pipeline by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ltxcore.config.base import Strict, parse
from ltxcore.config.recipe import Recipe
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
    """The context at the end of a run, and the run's folder.

    Raises:
        UnknownRun: there is no such run of the whole pipeline, or it has not got past probe-media.
        ConfigError: its recipe has keys of another version of this project.
        DamagedFile: the pointer to the newest run, or the run's parameters, are damaged.
    """
    asked_for = workspace.newest_run if name == NEWEST else name
    if asked_for is None:
        raise UnknownRun(f"{workspace.root} has no run yet; `ltx2 run` makes one")
    run = workspace.run(asked_for)
    request = run / REQUEST_FILE
    if not request.exists():
        raise UnknownRun(
            f"{workspace.root} has no run {run.name} of the whole pipeline; look into {run.parent}"
        )
    entry = read_manifest(run, PROBE)
    if entry is None:
        raise UnknownRun(f"the run {run.name} has no finished {PROBE.name}; start it again with `ltx2 run`")
    asked = read_model(request, RunRequest)
    recipe = parse(Recipe, asked.recipe, str(request))
    snapshot = str(read_stamp(workspace, entry).outcome.facts["snapshot"])
    return context_here(workspace, recipe, Path(asked.datasets), snapshot), run
