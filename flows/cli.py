"""`ltx2`: what the Prefect command line does not do."""

from __future__ import annotations

import secrets
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows.cli_plan import plan
from ltxcore.config.datasets import load_datasets
from ltxcore.config.errors import ConfigError
from ltxcore.config.recipe import Recipe, load_recipe
from ltxcore.stages.contract import STAGES, UnknownStage, stage_named
from ltxcore.store.workspace import LATEST, Workspace

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="rich", help=__doc__)
console = Console()
errors = Console(stderr=True)

WorkspaceOption = Annotated[Path, typer.Option(help="Directory of the store, the runs and the models.")]
DatasetsOption = Annotated[Path, typer.Option(help="The dataset file.")]
RecipeOption = Annotated[Path | None, typer.Option(help="The recipe file. Default: the tiny job.")]

BAD_CONFIGURATION = 2


def read_recipe(path: Path | None) -> Recipe:
    """The recipe of a file, or the defaults."""
    return Recipe() if path is None else load_recipe(path)


def _refuse(error: Exception) -> typer.Exit:
    errors.print(f"[red]{type(error).__name__}[/]", highlight=False)
    errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
    return typer.Exit(BAD_CONFIGURATION)


@app.command()
def run(
    workspace: WorkspaceOption = Path("workspace"),
    datasets: DatasetsOption = Path("datasets.yaml"),
    recipe: RecipeOption = None,
) -> None:
    """Run the whole pipeline here, without a server or worker running."""
    from flows.local_run import LocalRun

    try:
        load_datasets(datasets)
        parameters = {"datasets": str(datasets.resolve()), "recipe": read_recipe(recipe).fingerprint_data()}
    except ConfigError as error:
        raise _refuse(error) from None
    local = LocalRun(Workspace(workspace), _run_name(), console)
    raise typer.Exit(local.execute("train-ltx2", parameters, [stage.name for stage in STAGES]))


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help="probe-media, split-audio, encode-latents, …")],
    workspace: WorkspaceOption = Path("workspace"),
    datasets: DatasetsOption = Path("datasets.yaml"),
    recipe: RecipeOption = None,
    snapshot: Annotated[str, typer.Option(help="Id of a snapshot, or `latest`.")] = LATEST,
) -> None:
    """Run one stage alone; it says which inputs it misses and which stage makes them."""
    from flows.local_run import LocalRun

    try:
        wanted = stage_named(name)
        parameters: dict[str, object] = {"recipe": read_recipe(recipe).fingerprint_data()}
        if wanted.inputs:
            parameters["snapshot"] = snapshot
        else:
            load_datasets(datasets)
            parameters["datasets"] = str(datasets.resolve())
    except (ConfigError, UnknownStage) as error:
        raise _refuse(error) from None
    local = LocalRun(Workspace(workspace), _run_name(), console)
    raise typer.Exit(local.execute(wanted.name, parameters, [wanted.name]))


@app.command()
def validate(datasets: DatasetsOption = Path("datasets.yaml"), recipe: RecipeOption = None) -> None:
    """Check a dataset file and a recipe without running anything."""
    try:
        found = load_datasets(datasets)
        read_recipe(recipe)
    except ConfigError as error:
        raise _refuse(error) from None
    for dataset in found.video:
        console.print(f"{dataset.id}: {found.directory(dataset)}", markup=False, soft_wrap=True)
    console.print(f"{datasets} and {recipe or 'the default recipe'} are valid", markup=False, soft_wrap=True)


@app.command()
def samples(directory: Annotated[Path, typer.Argument()] = Path("datasets/samples")) -> None:
    """Make the sample clips, where they are not there yet."""
    from ltxcore.media.samples import make_samples

    with console.status("making sample clips"):
        made = make_samples(directory)
    console.print(f"{len(made)} files in {directory}", markup=False, soft_wrap=True)


@app.command()
def doctor(workspace: WorkspaceOption = Path("workspace")) -> None:
    """Say what this machine has, and what it lacks."""
    from flows.doctor import examine

    findings = examine(workspace)
    for finding in findings:
        mark = "[green]ok[/]" if finding.good else "[red]missing[/]"
        console.print(f"{mark}  {finding.subject}: {finding.detail}", highlight=False, soft_wrap=True)
    raise typer.Exit(0 if all(finding.good for finding in findings) else 1)


@app.command()
def serve(
    workspace: WorkspaceOption = Path("workspace"),
    datasets: DatasetsOption = Path("datasets.yaml"),
    recipe: RecipeOption = None,
    host: Annotated[str, typer.Option(help="Address that the servers listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the Prefect server.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow server.")] = 5000,
) -> None:
    """Start Prefect, MLflow and the workers, and deploy every flow; Ctrl-C stops them all."""
    from flows.serve import serve as start

    try:
        load_datasets(datasets)
        chosen = read_recipe(recipe)
    except ConfigError as error:
        raise _refuse(error) from None
    start(
        workspace.resolve(),
        host=host,
        port=port,
        mlflow_port=mlflow_port,
        recipe=chosen.fingerprint_data(),
        datasets=str(datasets.resolve()),
    )


app.command()(plan)


def _run_name() -> str:
    return f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def main() -> None:
    """Entry point of `python -m flows.cli`."""
    sys.exit(app())


if __name__ == "__main__":
    main()
