"""A training that runs out of memory in its process, and a parent that starts it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect import flow

from flows.run_stage import run_stage
from ltxcore.execution.runner import run_work
from ltxcore.pipeline.base.contract import TRAIN
from ltxcore.pipeline.base.stamp import Stamp
from ltxcore.pipeline.plan.out_of_memory_record import OutOfMemoryRecord
from tasks.pipeline import memory_retry
from tasks.stage import context, open_stage
from tasks.work import PrefectHooks
from tests.stages.simulated_card import simulated_card

FAILING_BATCH = 2


def run_out_of_memory_once(patch: pytest.MonkeyPatch, record: OutOfMemoryRecord) -> None:
    """Let a batch fail as on a full card, while there is no setback on record."""
    import torch

    from ltxcore.training import loop
    from ltxcore.training.step import batch_losses

    def losses(model: Any, connectors: Any, batch: Any, recipe: Any, number: int, *rest: Any) -> Any:
        if number == FAILING_BATCH and not record.all():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return batch_losses(model, connectors, batch, recipe, number, *rest)

    patch.setattr(loop, "batch_losses", losses)


@flow(name="train-on-a-card")
def train_on_a_card(workspace: str = "", recipe_file: str = "") -> None:
    ctx = context(workspace, recipe_file, pipeline_run="the-run")
    execution = open_stage(TRAIN, ctx, "the-run")
    assert execution is not None
    with simulated_card(), pytest.MonkeyPatch.context() as patch:
        run_out_of_memory_once(patch, OutOfMemoryRecord(execution.directory, ctx.recipe.memory))
        assert isinstance(run_work(execution, PrefectHooks()), Stamp)


@flow(name="parent-of-a-training")
def parent_of_a_training(workspace: str = "", recipe_file: str = "") -> None:
    again = memory_retry(TRAIN, context(workspace, recipe_file, pipeline_run="the-run"))
    run_stage(train_on_a_card, {"workspace": workspace, "recipe_file": recipe_file}, again=again)
    (Path(workspace) / "done").touch()
