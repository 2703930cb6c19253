"""The input of a stage: a workspace, a recipe, and the datasets or a committed snapshot of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from ltxcore.config.agreement import check_agreement
from ltxcore.config.arithmetic import resolve_arithmetic
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
    """The parameters of a stage; the files that they name are read on first use."""

    workspace: Workspace
    recipe: Recipe = field(default_factory=Recipe)
    datasets_file: Path = Path("datasets.yaml")
    snapshot_id: str = LATEST
    step: int = 0
    """For render-validation: the step of a training that goes on, whose LoRA it renders; 0: its end."""
    datasets_origin: Path | None = None
    """Of a copy that a run keeps: the dataset file that it was made of."""
    decided: str = field(init=False, default="", compare=False)
    """What of the recipe was left open and decided for this machine, in a sentence; empty for nothing."""

    def __post_init__(self) -> None:
        # Keys and requests are made of the recipe: what it leaves to the machine is decided before them.
        recipe, decided = resolve_arithmetic(self.recipe, likely_device())
        object.__setattr__(self, "recipe", recipe)
        object.__setattr__(self, "decided", decided)

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
        # What was open is not any more, and was decided all the same.
        object.__setattr__(other, "decided", other.decided or self.decided)
        other.__dict__.update({name: self.__dict__[name] for name in ("snapshot",) if name in self.__dict__})
        return other

    def require_snapshot(self, stage: Stage) -> Snapshot:
        """The snapshot, or the word that probe-media has to run first.

        Raises:
            MissingInput: the workspace does not hold it.
        """
        try:
            return self.snapshot
        except UnknownSnapshot as error:
            raise MissingInput(stage, f"a snapshot ({error})", PROBE) from error
