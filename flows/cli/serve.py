"""`ltx2 serve` and `ltx2 sign-in`: the servers of a workspace, and who may look at them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows.cli.options import DatasetsOption, RecipeOption, WorkspaceOption, read_recipe, refuse
from flows.database_url import DatabaseRefused, asked_database
from flows.environment import prefect_home
from flows.guard.sign_in import make_link
from flows.readiness import ServerError
from flows.serve import serve as start
from flows.server import find_server
from ltxcore.config.datasets import load_datasets
from ltxcore.config.errors import ConfigError

console = Console()


def serve(
    workspace: WorkspaceOption = Path("workspace"),
    datasets: DatasetsOption = Path("datasets.yaml"),
    recipe: RecipeOption = None,
    host: Annotated[str, typer.Option(help="Address on which the servers listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the Prefect server.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow server.")] = 5000,
    files_port: Annotated[int, typer.Option(help="Port of the file server of galleries.")] = 4280,
    database: Annotated[
        str,
        typer.Option(
            help="Where Prefect keeps its runs, if not in the workspace: postgresql+asyncpg://USER@HOST/NAME "
            "or sqlite:////FOLDER/FILE.db. Set LTX2_DATABASE_URL in its place if it holds a password."
        ),
    ] = "",
) -> None:
    """Start Prefect, MLflow and the workers, and deploy every flow; Ctrl-C stops them all."""
    try:
        chosen = read_recipe(recipe)
        load_datasets(datasets, chosen.data)
        kept_in = asked_database(database)
    except (ConfigError, DatabaseRefused) as error:
        raise refuse(error) from None
    try:
        start(
            workspace.resolve(),
            host=host,
            port=port,
            mlflow_port=mlflow_port,
            files_port=files_port,
            recipe_file=str(recipe.resolve()) if recipe else "",
            datasets=str(datasets.resolve()),
            database=kept_in,
        )
    except ServerError as error:
        raise refuse(error, status=1) from None


def sign_in(workspace: WorkspaceOption = Path("workspace")) -> None:
    """Print a link that signs one more browser in to the servers of a workspace."""
    server = find_server(workspace)
    # A server that is no child of `ltx2 serve`, as one of systemd's.
    url = os.environ.get("PREFECT_API_URL") if server is None else server.url
    if url is None:
        message = f"No server runs for {workspace.resolve()}. Start `ltx2 serve`, or set PREFECT_API_URL."
        raise refuse(ServerError(message), status=1)
    link = make_link(prefect_home(workspace), url.removesuffix("/").removesuffix("/api"))
    console.print(link, markup=False, highlight=False, soft_wrap=True)
