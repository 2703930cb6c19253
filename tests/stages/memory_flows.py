"""A training that runs out of memory in its process, and a parent that starts it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect import flow

from flows.run_stage import run_stage
from ltxcore.config.recipe import Recipe
from ltxcore.stages.contract import TRAIN
from ltxcore.stages.setbacks import Setbacks
from tasks.pipeline import memory_retry
from tasks.stage import context, only_run, open_stage
from tests.stages.simulated_card import simulated_card

FAILING_BATCH = 2


def run_out_of_memory_once(patch: pytest.MonkeyPatch, setbacks: Setbacks) -> None:
    """Let a batch fail as on a full card, while there is no setback on record."""
    import torch

    from ltxcore.training import loop
    from ltxcore.training.step import batch_losses

    def losses(model: Any, connectors: Any, batch: Any, recipe: Any, number: int, *rest: Any) -> Any:
        if number == FAILING_BATCH and not setbacks.all():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return batch_losses(model, connectors, batch, recipe, number, *rest)

    patch.setattr(loop, "batch_losses", losses)


@flow(name="train-on-a-card")
def train_on_a_card(workspace: str = "", recipe: Recipe = Recipe()) -> None:
    run = open_stage(TRAIN, context(workspace, recipe), "the-run")
    assert run is not None
    with only_run(run) as needed, simulated_card(), pytest.MonkeyPatch.context() as patch:
        assert needed
        from tasks.train_lora import train_all

        run_out_of_memory_once(patch, Setbacks(run.directory, recipe.memory))
        train_all(run, lambda: False)


@flow(name="parent-of-a-training")
def parent_of_a_training(workspace: str = "", recipe: Recipe = Recipe()) -> None:
    again = memory_retry(TRAIN, context(workspace, recipe))
    run_stage(train_on_a_card, {"workspace": workspace, "recipe": recipe}, again=again)
    (Path(workspace) / "done").touch()
