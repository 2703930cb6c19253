"""`ltx2 run` and `ltx2 stage`: the whole pipeline, or one stage of it, on this machine."""

from __future__ import annotations

import secrets
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows.cli.options import (
    STORE_FAULTS,
    AgainOption,
    DatasetsAgainOption,
    DatasetsOption,
    NoWorkspace,
    RecipeOption,
    WorkspaceOption,
    errors,
    existing_workspace,
    job_again,
    read_recipe,
    refuse,
    show_json,
)
from flows.display import summary_json
from flows.hub_token import may_be_token
from flows.local_run import LocalRun
from ltxcore.config.errors import ConfigError
from ltxcore.jobs.checks.job_checks import JobRefused, check_job, check_stage
from ltxcore.pipeline.base.context import context_here
from ltxcore.pipeline.base.contract import AUDIO, UnknownStage, asked_stages, stage_named
from ltxcore.pipeline.base.here import Here
from ltxcore.publishing.token import local_token
from ltxcore.store.workspace import LATEST, Workspace

console = Console()


def run(
    workspace: WorkspaceOption = Path("workspace"),
    datasets: DatasetsOption = Path("datasets.yaml"),
    recipe: RecipeOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON; progress goes to the error stream.")
    ] = False,
) -> None:
    """Run the whole pipeline here; needs no server or worker."""
    try:
        chosen = read_recipe(recipe)
        # Before a server starts: the parent flow asks the same again.
        check_job(
            context_here(Workspace(workspace), chosen, datasets), Here(hub_token=may_be_token(workspace))
        )
        parameters = {
            "datasets": str(datasets.resolve()),
            "recipe_file": "" if recipe is None else str(recipe.resolve()),
        }
    except (ConfigError, JobRefused, *STORE_FAULTS) as error:
        raise refuse(error) from None
    blocks = chosen.hub.push_to_hub and local_token() is None
    shown = errors if as_json else console
    local = LocalRun(Workspace(workspace), _run_name(), shown, blocks=blocks)
    code = local.execute("train-ltx2", parameters, [stage.name for stage in asked_stages(chosen)])
    if as_json:
        show_json(summary_json(Workspace(workspace), local.folder, code))
    raise typer.Exit(code)


def stage(
    name: Annotated[str, typer.Argument(help="probe-media, split-audio, encode-latents, …")],
    workspace: WorkspaceOption = Path("workspace"),
    datasets: DatasetsAgainOption = None,
    recipe: AgainOption = None,
    snapshot: Annotated[str, typer.Option(help="Id of a snapshot, or `latest`.")] = LATEST,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON; progress goes to the error stream.")
    ] = False,
) -> None:
    """Run one stage alone. If inputs are missing, it names the stage that makes them."""
    try:
        wanted = stage_named(name)
        if wanted.inputs:
            existing_workspace(workspace)
        recipe, datasets = job_again(recipe, datasets, workspace)
        chosen = read_recipe(recipe)
        parameters: dict[str, object] = {}
        if wanted is not AUDIO:
            parameters["recipe_file"] = "" if recipe is None else str(recipe.resolve())
        if wanted.inputs:
            parameters["snapshot"] = snapshot
        else:
            parameters["datasets"] = str(datasets.resolve())
        check_stage(context_here(Workspace(workspace), chosen, datasets, snapshot), wanted)
    except (ConfigError, JobRefused, UnknownStage, NoWorkspace, *STORE_FAULTS) as error:
        raise refuse(error) from None
    local = LocalRun(Workspace(workspace), _run_name(), errors if as_json else console)
    code = local.execute(wanted.name, parameters, [wanted.name])
    if as_json:
        show_json(summary_json(Workspace(workspace), local.folder, code))
    raise typer.Exit(code)


def _run_name() -> str:
    return f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
