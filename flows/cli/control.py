"""`ltx2 control`: save, sample, or stop and keep a training that goes on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows.cli.options import STORE_FAULTS, NoWorkspace, WorkspaceOption, existing_workspace, refuse
from ltxcore.jobs.live_control import NoTraining, go_on, running_training
from ltxcore.stages.train_lora.control import Kind

console = Console(highlight=False, soft_wrap=True)
app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="rich")
RunArgument = Annotated[str, typer.Argument(help="The name of a run. Default: the newest that trains.")]
WaitOption = Annotated[
    float, typer.Option("--wait", min=0, help="Seconds to wait until it is done. It comes later as well.")
]
NOTHING_TO_ASK = 1


@app.callback()
def control() -> None:
    """Save, sample, or stop and keep a training that goes on, here or under `ltx2 serve`."""


@app.command()
def save(
    run: RunArgument = "", workspace: WorkspaceOption = Path("workspace"), wait: WaitOption = 60.0
) -> None:
    """Write a checkpoint after the step that is being computed."""
    _ask("save", run, workspace, wait)


@app.command()
def sample(
    run: RunArgument = "", workspace: WorkspaceOption = Path("workspace"), wait: WaitOption = 60.0
) -> None:
    """Pause after this step, render the prompts, and go on."""
    _ask("sample", run, workspace, wait)


@app.command()
def stop(
    run: RunArgument = "", workspace: WorkspaceOption = Path("workspace"), wait: WaitOption = 60.0
) -> None:
    """End the training after this step, and keep its LoRA; the run goes on to its renderings."""
    _ask("stop", run, workspace, wait)


@app.command(name="continue")
def continue_(
    run: Annotated[str, typer.Argument(help="The name of a run. Default: the newest.")] = "",
    workspace: WorkspaceOption = Path("workspace"),
) -> None:
    """Let the next run of a recipe go on with a training that was stopped and kept."""
    try:
        console.print(go_on(existing_workspace(workspace), run), markup=False)
    except (NoTraining, NoWorkspace, ValueError, *STORE_FAULTS) as error:
        raise refuse(error, status=NOTHING_TO_ASK) from None


def _ask(kind: Kind, run: str, workspace: Path, wait_s: float) -> None:
    try:
        training = running_training(existing_workspace(workspace), run)
        console.print(training.ask(kind, time.time(), wait_s), markup=False)
    except (NoTraining, NoWorkspace, ValueError, *STORE_FAULTS) as error:
        raise refuse(error, status=NOTHING_TO_ASK) from None
