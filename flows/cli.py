"""`ltx2`: what the Prefect command line does not do."""

from __future__ import annotations

import secrets
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

from flows import cli_store
from flows.cli_buckets import buckets
from flows.cli_import import import_simpletuner
from flows.cli_keys import keys
from flows.cli_options import DatasetsOption, RecipeOption, WorkspaceOption, read_recipe, refuse
from flows.cli_plan import plan
from flows.cli_push import push
from flows.cli_report import report
from flows.cli_validate import validate
from ltxcore.config.datasets import load_datasets
from ltxcore.config.errors import ConfigError
from ltxcore.stages.contract import UnknownStage, asked_stages, stage_named
from ltxcore.store.workspace import LATEST, Workspace

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="rich", help=__doc__)
console = Console()


@app.command()
def run(
    workspace: WorkspaceOption = Path("workspace"),
    datasets: DatasetsOption = Path("datasets.yaml"),
    recipe: RecipeOption = None,
) -> None:
    """Run the whole pipeline here, without a server or worker running."""
    from flows.local_run import LocalRun

    try:
        chosen = read_recipe(recipe)
        load_datasets(datasets, chosen.data)
        parameters = {"datasets": str(datasets.resolve()), "recipe": chosen.fingerprint_data()}
    except ConfigError as error:
        raise refuse(error) from None
    local = LocalRun(Workspace(workspace), _run_name(), console)
    raise typer.Exit(local.execute("train-ltx2", parameters, [stage.name for stage in asked_stages(chosen)]))


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
        chosen = read_recipe(recipe)
        parameters: dict[str, object] = {"recipe": chosen.fingerprint_data()}
        if wanted.inputs:
            parameters["snapshot"] = snapshot
        else:
            load_datasets(datasets, chosen.data)
            parameters["datasets"] = str(datasets.resolve())
    except (ConfigError, UnknownStage) as error:
        raise refuse(error) from None
    local = LocalRun(Workspace(workspace), _run_name(), console)
    raise typer.Exit(local.execute(wanted.name, parameters, [wanted.name]))


@app.command()
def samples(
    directory: Annotated[Path, typer.Argument()] = Path("datasets/glimmer"),
    name: Annotated[
        Literal["glimmer", "variety"],
        typer.Option("--set", help="What the toy LTX-2 learns in `make run`, or every kind of clip."),
    ] = "glimmer",
) -> None:
    """Make the sample clips, where they are not there yet."""
    from ltxcore.media.samples import make_samples

    with console.status("making sample clips"):
        made = make_samples(directory, name)
    console.print(f"{len(made)} files in {directory}", markup=False, soft_wrap=True)


@app.command()
def doctor(workspace: WorkspaceOption = Path("workspace")) -> None:
    """Say what this machine has, and what it lacks."""
    from flows.doctor import examine

    findings = examine(workspace)
    for finding in findings:
        mark = "[green]ok[/]" if finding.good else "[red]missing[/]"
        console.print(
            f"{mark}  {escape(f'{finding.subject}: {finding.detail}')}", highlight=False, soft_wrap=True
        )
    raise typer.Exit(0 if all(finding.good for finding in findings) else 1)


@app.command()
def serve(
    workspace: WorkspaceOption = Path("workspace"),
    datasets: DatasetsOption = Path("datasets.yaml"),
    recipe: RecipeOption = None,
    host: Annotated[str, typer.Option(help="Address that the servers listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the Prefect server.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow server.")] = 5000,
    files_port: Annotated[int, typer.Option(help="Port under which galleries are shown.")] = 4280,
) -> None:
    """Start Prefect, MLflow and the workers, and deploy every flow; Ctrl-C stops them all."""
    from flows.serve import serve as start
    from flows.server import ServerError

    try:
        chosen = read_recipe(recipe)
        load_datasets(datasets, chosen.data)
    except ConfigError as error:
        raise refuse(error) from None
    try:
        start(
            workspace.resolve(),
            host=host,
            port=port,
            mlflow_port=mlflow_port,
            files_port=files_port,
            recipe=chosen.fingerprint_data(),
            datasets=str(datasets.resolve()),
        )
    except ServerError as error:
        raise refuse(error, status=1) from None


app.command()(cli_store.explain)
app.command()(cli_store.gc)
app.command()(cli_store.compact)
app.command()(cli_store.verify)
app.command(name="use-store")(cli_store.use_store)


app.command("import-simpletuner")(import_simpletuner)
app.command()(buckets)
app.command()(report)
app.command()(validate)
app.command()(keys)


app.command()(plan)
app.command()(push)


def _run_name() -> str:
    return f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def main() -> None:
    """Entry point of `python -m flows.cli`."""
    sys.exit(app())


if __name__ == "__main__":
    main()
