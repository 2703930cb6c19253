"""What people ask of a training while it goes on: which training is meant, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ltxcore.pipeline.base.contract import TRAIN
from ltxcore.pipeline.base.progress import ProgressState, read_progress
from ltxcore.pipeline.base.stamp import read_manifest
from ltxcore.stages.train_lora.control import Kind, Requests, go_on_to_the_end
from ltxcore.store.locks import is_held
from ltxcore.store.workspace import Workspace

POLL_S: Final = 0.2
DONE: Final[dict[Kind, str]] = {
    "save": "a checkpoint of step {step} is written",
    "sample": "the samples of step {step} are rendered; then the training goes on",
    "stop": "the training ends after step {step}, and its LoRA is kept",
}
ASKED: Final = "asked for; it comes after the step that is being computed"


class NoTraining(LookupError):
    """There is no training that could be asked."""


@dataclass(frozen=True)
class RunningTraining:
    """A training that goes on: it computes, loads, or waits for its samples."""

    run: str
    directory: Path
    progress: ProgressState

    def ask(self, kind: Kind, asked_s: float, wait_s: float) -> str:
        """Ask the training for something, and wait for it; what came of it, in a sentence.

        Args:
            kind: what for.
            asked_s: when it was clicked, as a `time.time()`: what comes within ten seconds is one click.
            wait_s: how long to wait until it is done.
        """
        requests = Requests(self.directory)
        requests.ask(kind, asked_s, self.progress.done)
        deadline = time.monotonic() + wait_s
        while requests.waits(kind) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        answer = requests.answer(kind)
        if requests.waits(kind) or answer is None:
            return f"run {self.run}: {kind} is {ASKED}"
        return f"run {self.run}: {DONE[kind].format(step=answer.step)}"


def running_training(workspace: Workspace, run: str = "") -> RunningTraining:
    """The training of a run that goes on; the newest one where no run is named.

    Raises:
        NoTraining: there is none.
        ValueError: the name of the run is none.
    """
    if run:
        folder = workspace.run(run)
        return _training_of(workspace, folder)
    found = sorted(_going_on(workspace), key=lambda training: training.progress.started_s)
    if not found:
        newest = workspace.newest_run
        if newest is not None:
            # It says best what is missing.
            _training_of(workspace, workspace.run(newest))
        raise NoTraining(f"no training goes on in {workspace.root}")
    return found[-1]


def _going_on(workspace: Workspace) -> Iterator[RunningTraining]:
    for file in workspace.runs.glob(f"*/progress/{TRAIN.name}.json"):
        try:
            yield _training_of(workspace, file.parent.parent)
        except NoTraining:
            continue


def _training_of(workspace: Workspace, folder: Path) -> RunningTraining:
    if not folder.is_dir():
        raise NoTraining(f"{workspace.root} has no run {folder.name!r}")
    if (entry := read_manifest(folder, TRAIN)) is not None:
        steps = entry.counts.get("steps", 0)
        raise NoTraining(f"the training of run {folder.name} is over, after {steps} steps")
    if not is_held(workspace.run_lock(folder)):
        raise NoTraining(f"run {folder.name} does not go on; its training continues when it is started again")
    progress = read_progress(folder, TRAIN.name)
    if progress is None or not progress.directory:
        raise NoTraining(f"run {folder.name} has not begun to train yet")
    return RunningTraining(folder.name, workspace.root / progress.directory, progress)


def go_on(workspace: Workspace, run: str = "") -> str:
    """Take back that a run's training was stopped and kept; what follows, in a sentence.

    Raises:
        NoTraining: it was not stopped.
        ValueError: the name of the run is none.
    """
    name = run or workspace.newest_run
    if name is None:
        raise NoTraining(f"there is no run in {workspace.root}")
    directory = _directory_of(workspace, workspace.run(name))
    stopped = None if directory is None else go_on_to_the_end(directory)
    if stopped is None:
        raise NoTraining(f"the training of run {name} was not stopped and kept")
    return f"the next run of this recipe goes on after step {stopped}"


def _directory_of(workspace: Workspace, run: Path) -> Path | None:
    """Of a run's training, whether it is over or not; None where the run has none."""
    if (entry := read_manifest(run, TRAIN)) is not None:
        return (workspace.root / entry.stamp).parent
    progress = read_progress(run, TRAIN.name)
    return workspace.root / progress.directory if progress is not None and progress.directory else None
