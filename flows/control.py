"""Flows that ask a training that goes on for something: a click on Quick run of their deployment."""

from __future__ import annotations

import time
from typing import Final

from prefect import flow, runtime
from prefect.client.schemas.objects import State
from prefect.states import Completed

from ltxcore.jobs.live_control import running_training
from ltxcore.stages.train_lora.control import Kind
from ltxcore.store.workspace import Workspace

WAIT_S: Final = 600.0


@flow(name="training-save", flow_run_name="training-save")
def training_save(workspace: str = "workspace", run: str = "") -> State[None]:
    """Write a checkpoint of the training that goes on.

    Args:
        workspace: directory of the store, the runs and the models.
        run: the name of the run's folder. Empty: the newest that trains.
    """
    return _ask("save", workspace, run)


@flow(name="training-sample", flow_run_name="training-sample")
def training_sample(workspace: str = "workspace", run: str = "") -> State[None]:
    """Render the prompts with the LoRA as it is now; the training pauses meanwhile.

    Args:
        workspace: directory of the store, the runs and the models.
        run: the name of the run's folder. Empty: the newest that trains.
    """
    return _ask("sample", workspace, run)


@flow(name="training-stop", flow_run_name="training-stop")
def training_stop(workspace: str = "workspace", run: str = "") -> State[None]:
    """End the training after this step, and keep its LoRA; the run goes on to its renderings.

    Args:
        workspace: directory of the store, the runs and the models.
        run: the name of the run's folder. Empty: the newest that trains.
    """
    return _ask("stop", workspace, run)


def _ask(kind: Kind, workspace: str, run: str) -> State[None]:
    training = running_training(Workspace(workspace), run)
    # When it was clicked, not when a worker came to it: two clicks are one.
    clicked = runtime.flow_run.scheduled_start_time
    asked_s = time.time() if clicked is None else clicked.timestamp()
    return Completed(message=training.ask(kind, asked_s, WAIT_S))
