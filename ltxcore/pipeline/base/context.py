"""The input of a stage: a workspace, a recipe, and the datasets or a committed snapshot of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from ltxcore.config.agreement import check_agreement
from ltxcore.config.arithmetic import open_precisions, resolve_arithmetic
from ltxcore.config.datasets import Datasets, load_datasets
from ltxcore.config.recipe import Recipe
from ltxcore.memory.device import likely_device
from ltxcore.models.files.source import ModelSource, resolve_model
from ltxcore.models.teacher import TeacherSource, resolve_teacher
from ltxcore.pipeline.base.contract import PROBE, MissingInput, Stage
from ltxcore.store.blobs import Blobs
from ltxcore.store.snapshot import Snapshot
from ltxcore.store.workspace import LATEST, UnknownSnapshot, Workspace


@dataclass(frozen=True)
class Context:
    """The parameters of a stage; the files that they name are read on first use.

    Keys and requests are made of the recipe, so it must leave no precision to the machine: `context_here`
    makes a context of any recipe.

    Raises:
        ValueError: the recipe leaves a precision open.
    """

    workspace: Workspace
    recipe: Recipe
    datasets_file: Path = Path("datasets.yaml")
    snapshot_id: str = LATEST
    step: int = 0
    """For render-validation: the step of a training that goes on, whose LoRA it renders; 0: its end."""
    datasets_origin: Path | None = None
    """Of a copy that a run keeps: the dataset file that it was made of."""
    decided: str = field(default="", compare=False)
    """What of the recipe was left open and decided for this machine, in a sentence; empty for nothing."""

    def __post_init__(self) -> None:
        if left_open := open_precisions(self.recipe):
            raise ValueError(f"the recipe leaves {', '.join(left_open)} open; `context_here` decides them")

    @cached_property
    def datasets(self) -> Datasets:
        """The datasets.

        Raises:
            ConfigError: they are wrong, or contradict the recipe.
        """
        found = load_datasets(self.datasets_file, self.recipe.data, self.datasets_origin)
        check_agreement(self.recipe, found)
        return found

    @cached_property
    def snapshot(self) -> Snapshot:
        """The snapshot that the stage works on."""
        return self.workspace.load_snapshot(self.snapshot_id)

    @cached_property
    def source(self) -> ModelSource:
        """The model's files; what is missing is downloaded."""
        return resolve_model(self.recipe.model, self.workspace.models)

    @cached_property
    def teacher(self) -> TeacherSource:
        """The files of CREPA's teacher."""
        return resolve_teacher(self.recipe.crepa, self.workspace.models)

    @cached_property
    def store(self) -> Blobs:
        """The workspace's store."""
        return self.workspace.store

    def with_recipe(self, recipe: Recipe) -> Context:
        """The same stage with another recipe; a snapshot that was read already is not read again."""
        other = replace(self, recipe=recipe)
        other.__dict__.update({name: self.__dict__[name] for name in ("snapshot",) if name in self.__dict__})
        return other

    def require_snapshot(self, stage: Stage) -> Snapshot:
        """The snapshot.

        Raises:
            MissingInput: the workspace does not hold it.
        """
        try:
            return self.snapshot
        except UnknownSnapshot as error:
            raise MissingInput(stage, f"a snapshot ({error})", PROBE) from error


def context_here(
    workspace: Workspace,
    recipe: Recipe | None = None,
    datasets_file: Path = Context.datasets_file,
    snapshot_id: str = LATEST,
    step: int = 0,
    datasets_origin: Path | None = None,
) -> Context:
    """A context with what its recipe leaves open decided for this machine.

    Args:
        workspace: directory of the store, the runs and the models.
        recipe: as it was written; None: the defaults.
        datasets_file: the dataset file.
        snapshot_id: the snapshot that the stage works on.
        step: for render-validation: the step of a training whose LoRA it renders; 0: its end.
        datasets_origin: of a copy that a run keeps: the dataset file that it was made of.
    """
    chosen, decided = resolve_arithmetic(Recipe() if recipe is None else recipe, likely_device())
    return Context(workspace, chosen, datasets_file, snapshot_id, step, datasets_origin, decided)
