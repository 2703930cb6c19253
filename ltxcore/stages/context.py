"""What a stage is run for: a workspace, a recipe, and the datasets or a committed snapshot of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from ltxcore.config.agreement import check_agreement
from ltxcore.config.batch_size import AUTO
from ltxcore.config.datasets import Datasets, load_datasets
from ltxcore.config.recipe import Recipe
from ltxcore.models.source import ModelSource, resolve_model
from ltxcore.models.teacher import TeacherSource, resolve_teacher
from ltxcore.stages.contract import PROBE, MissingInput, Stage
from ltxcore.store.blobs import Blobs
from ltxcore.store.snapshot import Snapshot
from ltxcore.store.workspace import LATEST, UnknownSnapshot, Workspace


@dataclass(frozen=True)
class Context:
    """The parameters of a stage, with what they name read when it is first asked for."""

    workspace: Workspace
    recipe: Recipe = field(default_factory=Recipe)
    datasets_file: Path = Path("datasets.yaml")
    snapshot_id: str = LATEST
    step: int = 0
    """For render-validation: the step of a training that goes on, whose LoRA it renders; 0: its end."""

    @cached_property
    def datasets(self) -> Datasets:
        """The datasets.

        Raises:
            ConfigError: they are wrong, or contradict the recipe.
        """
        found = load_datasets(self.datasets_file, self.recipe.data)
        check_agreement(self.recipe, found)
        return found

    @cached_property
    def snapshot(self) -> Snapshot:
        return self.workspace.load_snapshot(self.snapshot_id)

    @cached_property
    def source(self) -> ModelSource:
        return resolve_model(self.recipe.model, self.workspace.models)

    @cached_property
    def teacher(self) -> TeacherSource:
        return resolve_teacher(self.recipe.crepa, self.workspace.models)

    @cached_property
    def store(self) -> Blobs:
        return self.workspace.store

    @cached_property
    def settled(self) -> Context:
        """The same with a recipe in which what the planner chooses and what changes numbers is decided.

        Raises:
            OverBudget: nothing that it may choose fits.
        """
        if AUTO not in (self.recipe.model.base_model_precision, self.recipe.training.train_batch_size):
            return self
        from ltxcore.stages.settled import settle

        return settle(self)

    def with_recipe(self, recipe: Recipe) -> Context:
        """The same stage with another recipe; a snapshot that was read already is not read again."""
        other = replace(self, recipe=recipe)
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
