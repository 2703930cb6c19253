"""The recipe and the dataset file of a run: read once when it starts, and kept in its folder.

A run's stages, retries and resumes read the kept copies, even if the original files change. The next run
reads the files anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ltxcore.config.base import Strict
from ltxcore.config.datasets import NO_FILE, load_datasets
from ltxcore.config.errors import ConfigError, Problem
from ltxcore.config.overrides import Overrides
from ltxcore.config.recipe import Recipe, load_recipe
from ltxcore.store.blobs import read_model, write_atomic, write_json

RECIPE: Final = "recipe.json"
DATASETS: Final = "datasets"
ORIGIN: Final = "datasets-origin.json"


class KeptRecipe(Strict):
    """A recipe as it was when a run started."""

    file: str
    """Where it was read; empty for the defaults."""
    recipe: Recipe


class KeptDatasets(Strict):
    """Where the kept dataset file came from: its directories are relative to that place."""

    file: str
    copy_name: str


@dataclass(frozen=True)
class DatasetFile:
    """A dataset file and the place that its relative directories count from."""

    file: Path
    origin: Path


@dataclass(frozen=True)
class KeptJob:
    """What a run keeps; no datasets where it was not asked for any."""

    recipe: Recipe
    datasets: DatasetFile | None


def keep_job(
    run: Path, recipe_file: str, overrides: Overrides = Overrides(), datasets_file: str = ""
) -> KeptJob:
    """A run's recipe and dataset file; what it does not keep yet is read, and kept from now on.

    Both are kept or none is: where the dataset file is bad, a retry reads both files anew.

    Args:
        recipe_file: empty for the default recipe.
        datasets_file: empty where the datasets are not needed.

    Raises:
        ConfigError: a file is not there or is wrong, with file, line and key. Nothing is kept then.
        DamagedFile: what was kept is not what was written.
    """
    kept = run / RECIPE
    if kept.is_file():
        recipe = read_model(kept, KeptRecipe).recipe
        return KeptJob(recipe, _datasets(run, datasets_file, recipe, begun=True))
    recipe = overrides.put_over(load_recipe(_path(recipe_file)) if recipe_file else Recipe())
    datasets = _datasets(run, datasets_file, recipe, begun=False)
    # Last: datasets without a recipe are of a run that never began.
    write_json(kept, KeptRecipe(file=recipe_file, recipe=recipe).model_dump(mode="json"))
    return KeptJob(recipe, datasets)


def keep_recipe(run: Path, recipe: Recipe) -> None:
    """Keep a recipe that comes from no file, unless the run keeps one already."""
    if not (run / RECIPE).is_file():
        write_json(run / RECIPE, KeptRecipe(file="", recipe=recipe).model_dump(mode="json"))


def kept_recipe_file(run: Path) -> Path | None:
    """Where a run read its recipe; None where it had none, or keeps none.

    Raises:
        DamagedFile: what was kept is not what was written.
    """
    kept = run / RECIPE
    named = read_model(kept, KeptRecipe).file if kept.is_file() else ""
    return _path(named) if named else None


def kept_datasets_file(run: Path) -> Path | None:
    """Where a run read its datasets; None where it keeps none.

    Raises:
        DamagedFile: what was kept is not what was written.
    """
    kept = run / ORIGIN
    return _path(read_model(kept, KeptDatasets).file) if kept.is_file() else None


def _datasets(run: Path, datasets_file: str, recipe: Recipe, *, begun: bool) -> DatasetFile | None:
    """The dataset file that a run keeps; where it keeps none, a copy of this one, made now."""
    if not datasets_file:
        return None
    if begun and (run / ORIGIN).is_file():
        kept = read_model(run / ORIGIN, KeptDatasets)
        return DatasetFile(run / kept.copy_name, Path(kept.file))
    origin = _path(datasets_file).absolute()
    copy = run / f"{DATASETS}{origin.suffix}"
    try:
        content = origin.read_bytes()
    except FileNotFoundError:
        raise ConfigError(str(origin), [Problem("", NO_FILE)]) from None
    except OSError as error:
        raise ConfigError(str(origin), [Problem("", f"cannot be read: {error.strerror}")]) from error
    write_atomic(copy, content)
    # The copy is what is judged: the file may be edited meanwhile.
    try:
        load_datasets(copy, recipe.data, origin)
    except ConfigError:
        copy.unlink()
        raise
    write_json(run / ORIGIN, KeptDatasets(file=str(origin), copy_name=copy.name).model_dump(mode="json"))
    return DatasetFile(copy, origin)


def _path(name: str) -> Path:
    """A path as a person writes it: `~` is the home directory."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        user = name.split("/")[0]
        message = f"{user} is the home of nobody on this machine; write the whole path"
        raise ConfigError(name, [Problem("", message)]) from None
