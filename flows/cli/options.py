"""Options and error output that several commands share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from flows.tables import say
from ltxcore.config.recipe import Recipe, load_recipe
from ltxcore.execution.kept_job import kept_datasets_file, kept_recipe_file
from ltxcore.pipeline.base.context import Context, context_here
from ltxcore.store.blobs import DamagedFile
from ltxcore.store.index import IndexDamaged
from ltxcore.store.refs import RefDamaged
from ltxcore.store.workspace import LATEST, StoreUnknown, UnknownSnapshot, Workspace

WorkspaceOption = Annotated[Path, typer.Option(help="Directory of the store, the runs and the models.")]
DatasetsOption = Annotated[Path, typer.Option(help="The dataset file.")]
RecipeOption = Annotated[Path | None, typer.Option(help="The recipe file. Default: the tiny job.")]
AgainOption = Annotated[
    Path | None,
    typer.Option("--recipe", help="The recipe file. Default: the recipe of the newest run in the workspace."),
]
"""The recipe of commands that look at what was run, or run a part of it again."""
DatasetsAgainOption = Annotated[
    Path | None,
    typer.Option("--datasets", help="The dataset file. Default: that of the newest run, or datasets.yaml."),
]
"""The dataset file of such commands."""
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PriceOption = Annotated[
    float | None, typer.Option(min=0, help="What the machine costs an hour, to add prices to times.")
]

DATASETS: Final = Path("datasets.yaml")
WORKSPACE: Final = Path("workspace")
BAD_CONFIGURATION: Final = 2
STORE_FAULTS: Final = (DamagedFile, IndexDamaged, RefDamaged, StoreUnknown, UnknownSnapshot)
"""What of a workspace or its store cannot be read; each says what to do."""
errors = Console(stderr=True)


def read_recipe(path: Path | None) -> Recipe:
    """The recipe of a file, or the defaults."""
    return Recipe() if path is None else load_recipe(path)


def job_again(recipe: Path | None, datasets: Path | None, workspace: Path) -> tuple[Path | None, Path]:
    """Recipe and dataset file that were named, or else those of the workspace's newest run.

    Where it takes the newest run's, it says so on the error stream, in one line; and so it does where a
    workspace that was named is not there, which may be mistyped or may be yet to be made.

    Raises:
        DamagedFile: what names the newest run, or what that run keeps, is not what was written.
    """
    space = Workspace(workspace)
    if not space.exists and workspace != WORKSPACE:
        say(errors, f"there is no workspace at {space.root} yet; the first run makes it")
    newest = None if recipe is not None and datasets is not None else space.newest_run
    if newest is None:
        return recipe, datasets or DATASETS
    folder, taken = space.run(newest), {}
    if recipe is None and (file := kept_recipe_file(folder)) is not None and file.is_file():
        recipe = taken["recipe"] = file
    if datasets is None and (file := kept_datasets_file(folder)) is not None and file.is_file():
        datasets = taken["datasets"] = file
    if taken:
        named = ", ".join(f"{what} {short(file)}" for what, file in taken.items())
        line = f"of the newest run, {newest}: {named}"
        say(errors, line)
    return recipe, datasets or DATASETS


def short(path: Path) -> str:
    """A path as it is written here: relative where it is below."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def context_again(
    workspace: Path, recipe: Path | None, datasets: Path | None, snapshot: str = LATEST
) -> Context:
    """The context of a command that looks at what was run: of the job that was named, or of the newest run.

    Raises:
        NoWorkspace: nothing was ever run there.
        ConfigError: the recipe is wrong.
        DamagedFile: what the newest run keeps is not what was written.
    """
    space = existing_workspace(workspace)
    recipe, datasets = job_again(recipe, datasets, workspace)
    return context_here(space, read_recipe(recipe), datasets, snapshot)


def show_json(data: Any) -> None:
    """Print an answer as JSON, whole in every terminal and pipe."""
    typer.echo(json.dumps(data, indent=1, ensure_ascii=False))


@contextmanager
def at_work(what: str) -> Iterator[None]:
    """A sign of life while something is looked at: a turning wheel in a terminal, nothing in a pipe."""
    with errors.status(f"{what} …"):
        yield


class NoWorkspace(LookupError):
    """There is nothing at the path of a workspace."""


def existing_workspace(path: Path) -> Workspace:
    """The workspace at a path, for a command that looks after what is there.

    Raises:
        NoWorkspace: nothing was ever run there.
    """
    space = Workspace(path)
    if not space.exists:
        raise NoWorkspace(
            f"there is no workspace at {space.root}; name the one of your runs: --workspace FOLDER"
        )
    return space


def refuse(error: Exception, status: int = BAD_CONFIGURATION) -> typer.Exit:
    """Print why a command was refused; returns the exit to raise."""
    errors.print(f"[red]{type(error).__name__}[/]", highlight=False)
    say(errors, str(error))
    return typer.Exit(status)
