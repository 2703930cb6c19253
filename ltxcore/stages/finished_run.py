"""A run of the pipeline that is over, opened again by its name."""

from __future__ import annotations

from pathlib import Path

from ltxcore.config.base import parse
from ltxcore.config.recipe import Recipe
from ltxcore.stages.context import Context
from ltxcore.stages.contract import PROBE
from ltxcore.stages.stamp import read_manifest, read_stamp
from ltxcore.stages.sweep import UnknownRun
from ltxcore.store.blobs import read_json
from ltxcore.store.workspace import Workspace

NEWEST = "newest"


def open_run(workspace: Workspace, name: str = NEWEST) -> tuple[Context, Path]:
    """The context that a run had at its end, and its folder.

    Raises:
        UnknownRun: there is no such run of the whole pipeline, or it has not got past probe-media.
        ConfigError: its recipe has keys of another version of this project.
    """
    pointer = workspace.runs / "newest.json"
    if name == NEWEST and not pointer.exists():
        raise UnknownRun(f"{workspace.root} has no run yet; `ltx2 run` makes one")
    run = workspace.run(read_json(pointer)["run"] if name == NEWEST else name)
    request = run / "run.json"
    if not request.exists():
        raise UnknownRun(
            f"{workspace.root} has no run {run.name} of the whole pipeline; look into {run.parent}"
        )
    entry = read_manifest(run, PROBE)
    if entry is None:
        raise UnknownRun(f"the run {run.name} has no finished {PROBE.name}; start it again with `ltx2 run`")
    asked = read_json(request)
    recipe = parse(Recipe, asked["recipe"], str(request))
    snapshot = str(read_stamp(workspace, entry).outcome.facts["snapshot"])
    return Context(workspace, recipe, Path(asked["datasets"]), snapshot), run
