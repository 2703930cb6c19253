"""What several commands take, and how a refused configuration is told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from ltxcore.config.recipe import Recipe, load_recipe
from ltxcore.store.blobs import DamagedFile
from ltxcore.store.index import IndexDamaged
from ltxcore.store.refs import RefDamaged
from ltxcore.store.workspace import StoreUnknown, UnknownSnapshot

WorkspaceOption = Annotated[Path, typer.Option(help="Directory of the store, the runs and the models.")]
DatasetsOption = Annotated[Path, typer.Option(help="The dataset file.")]
RecipeOption = Annotated[Path | None, typer.Option(help="The recipe file. Default: the tiny job.")]

BAD_CONFIGURATION: Final = 2
STORE_FAULTS: Final = (DamagedFile, IndexDamaged, RefDamaged, StoreUnknown, UnknownSnapshot)
"""What of a workspace or its store cannot be read; each says what to do."""
errors = Console(stderr=True)


def read_recipe(path: Path | None) -> Recipe:
    """The recipe of a file, or the defaults."""
    return Recipe() if path is None else load_recipe(path)


def refuse(error: Exception, status: int = BAD_CONFIGURATION) -> typer.Exit:
    """Tell what is wrong with what was asked for; the exit to raise."""
    errors.print(f"[red]{type(error).__name__}[/]", highlight=False)
    errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
    return typer.Exit(status)
