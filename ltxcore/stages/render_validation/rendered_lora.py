"""The LoRA that render-validation shows: of a finished training, or of a step of a training in progress."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import RENDER, TRAIN, MissingInput
from ltxcore.pipeline.base.outputs import require_whole, require_whole_directory
from ltxcore.pipeline.base.stamp import OutputFile, Stamp, find_stamp, request_fingerprint, stage_directory
from ltxcore.stages.train_lora.lora_sides import shown_sides
from ltxcore.stages.train_lora.request import request as train_lora_request
from ltxcore.stages.train_lora.sample_steps import step_directory
from ltxcore.store.workspace import Workspace
from ltxcore.validation.sides import Sides


@dataclass(frozen=True)
class ShownLora:
    """A LoRA that is rendered beside the base."""

    label: str
    """What people read."""
    file: Path
    """In diffusers' layout."""


@dataclass(frozen=True)
class RenderedLora:
    """A LoRA to render, and what its page says of it."""

    shown: Sides[ShownLora]
    """What is rendered."""
    record: Path
    """The training's directory: its loss picture, and the state of its MLflow run."""
    fingerprint: str
    """Of the training."""
    step: int
    """After which it is."""
    trained_steps: int
    """Of the training, as far as it is known."""
    finished: bool
    loss: str
    """Of its first and last steps; empty where it goes on."""
    files: tuple[str, ...]
    """What can be downloaded, relative to the workspace."""
    outputs: tuple[OutputFile, ...]
    """What the stamp of the training names; empty where it goes on."""

    @property
    def file(self) -> Path:
        """The first that is shown."""
        return next(iter(self.shown)).file

    def require_whole(self, workspace: Workspace) -> None:
        """Compare the files that are rendered and shown with the hashes that the training left.

        Raises:
            DamagedOutput: one is gone or is not what was written.
            OSError: one cannot be read.
        """
        if self.finished:
            require_whole(workspace, self.outputs)
        else:
            require_whole_directory(self.file.parent)


def rendered_lora(ctx: Context) -> RenderedLora:
    """The LoRA that this context asks for, by the training's request and step.

    Raises:
        MissingInput: the training has not reached it.
    """
    return _of_step(ctx) if ctx.step else _of_training(ctx)


def training_key(ctx: Context) -> str:
    """The fingerprint of the training whose LoRA this context asks for, and where somebody has ended it.

    Raises:
        MissingInput: it is the LoRA of the finished training, and that is not finished.
    """
    if ctx.step:
        return training_fingerprint(ctx)
    stamp = training_stamp(ctx)
    stopped = stamp.stopped_after
    # The same training may go on later, and have another LoRA then.
    return stamp.fingerprint if stopped is None else f"{stamp.fingerprint} stopped after step {stopped}"


def training_stamp(ctx: Context) -> Stamp:
    """The stamp of the training that this context asks for.

    Raises:
        MissingInput: it has not been done.
    """
    ctx.require_snapshot(RENDER)
    stamp = find_stamp(ctx.workspace, TRAIN, train_lora_request(ctx))
    if stamp is None:
        raise MissingInput(RENDER, f"the LoRA of training {training_fingerprint(ctx)[:16]}", TRAIN)
    return stamp


def training_fingerprint(ctx: Context) -> str:
    """Of the training that this context asks for, done or not."""
    ctx.require_snapshot(RENDER)
    return request_fingerprint(TRAIN, train_lora_request(ctx))


def training_directory(ctx: Context) -> Path:
    """Where the training that this context asks for keeps its files."""
    return stage_directory(ctx.workspace, TRAIN, train_lora_request(ctx))


def samples_of(ctx: Context, training: Path, step: int) -> Sides[ShownLora]:
    """The directory in which a training leaves a step's LoRA for rendering."""
    directory = step_directory(training, step)
    sides = shown_sides(ctx.recipe.training)
    return sides.map(lambda _, side: ShownLora(side.label, directory / side.file_name))


def _of_training(ctx: Context) -> RenderedLora:
    stamp = training_stamp(ctx)
    facts: dict[str, Any] = stamp.outcome.facts
    files = [ctx.workspace.root / file.path for file in stamp.outcome.files]
    by_name = {file.name: file for file in files}
    sides = shown_sides(ctx.recipe.training)
    return RenderedLora(
        shown=sides.map(lambda _, side: ShownLora(side.label, by_name[side.file_name])),
        record=ctx.workspace.root / facts["directory"],
        fingerprint=stamp.fingerprint,
        step=facts.get("exported_step", stamp.outcome.counts["steps"]),
        trained_steps=stamp.outcome.counts["steps"],
        finished=True,
        loss=f"{facts['first_loss']:.4f} -> {facts['last_loss']:.4f}",
        files=tuple(f.path for f in stamp.outcome.files if f.path.endswith(".safetensors")),
        outputs=stamp.outcome.files,
    )


def _of_step(ctx: Context) -> RenderedLora:
    fingerprint, record = training_fingerprint(ctx), training_directory(ctx)
    shown = samples_of(ctx, record, ctx.step)
    if not all(one.file.is_file() for one in shown):
        raise MissingInput(RENDER, f"the LoRA of step {ctx.step} of training {fingerprint[:16]}", TRAIN)
    return RenderedLora(
        shown=shown,
        record=record,
        fingerprint=fingerprint,
        step=ctx.step,
        trained_steps=ctx.step,
        finished=False,
        loss="",
        files=(),
        outputs=(),
    )
