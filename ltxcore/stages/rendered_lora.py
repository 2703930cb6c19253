"""The LoRA that render-validation shows: of a finished training, or of a step of one that goes on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltxcore.stages import train_lora
from ltxcore.stages.context import Context
from ltxcore.stages.contract import RENDER, TRAIN, MissingInput
from ltxcore.stages.lora_sides import LoraSide, shown_sides
from ltxcore.stages.sample_steps import step_directory
from ltxcore.stages.stamp import Stamp, find_stamp, request_fingerprint, stage_directory


@dataclass(frozen=True)
class RenderedLora:
    """A LoRA to render, and what its page says of it."""

    shown: tuple[tuple[LoraSide, Path], ...]
    """What is rendered, each with its file in diffusers' layout."""
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

    @property
    def file(self) -> Path:
        """The first that is shown."""
        return self.shown[0][1]


def rendered_lora(ctx: Context) -> RenderedLora:
    """The LoRA that this context asks for.

    Raises:
        MissingInput: the training has not come to it.
    """
    return _of_step(ctx) if ctx.step else _of_training(ctx)


def training_key(ctx: Context) -> str:
    """The fingerprint of the training whose LoRA this context asks for.

    Raises:
        MissingInput: it is the LoRA of the finished training, and that is not finished.
    """
    return training_fingerprint(ctx) if ctx.step else training_stamp(ctx).fingerprint


def training_stamp(ctx: Context) -> Stamp:
    """The stamp of the training that this context asks for.

    Raises:
        MissingInput: it has not been done.
    """
    ctx.require_snapshot(RENDER)
    stamp = find_stamp(ctx.workspace, TRAIN, train_lora.request(ctx))
    if stamp is None:
        raise MissingInput(RENDER, f"the LoRA of training {training_fingerprint(ctx)[:16]}", TRAIN)
    return stamp


def training_fingerprint(ctx: Context) -> str:
    """Of the training that this context asks for, done or not."""
    ctx.require_snapshot(RENDER)
    return request_fingerprint(TRAIN, train_lora.request(ctx))


def training_directory(ctx: Context) -> Path:
    """Where the training that this context asks for keeps its files."""
    return stage_directory(ctx.workspace, TRAIN, train_lora.request(ctx))


def samples_of(ctx: Context, training: Path, step: int) -> tuple[tuple[LoraSide, Path], ...]:
    """What a training in that directory leaves of a step to be rendered."""
    directory = step_directory(training, step)
    return tuple((side, directory / side.file_name) for side in shown_sides(ctx.recipe.training))


def _of_training(ctx: Context) -> RenderedLora:
    stamp = training_stamp(ctx)
    facts: dict[str, Any] = stamp.outcome.facts
    files = [ctx.workspace.root / file.path for file in stamp.outcome.files]
    by_name = {file.name: file for file in files}
    return RenderedLora(
        shown=tuple((side, by_name[side.file_name]) for side in shown_sides(ctx.recipe.training)),
        record=ctx.workspace.root / facts["directory"],
        fingerprint=stamp.fingerprint,
        step=facts.get("exported_step", stamp.outcome.counts["steps"]),
        trained_steps=stamp.outcome.counts["steps"],
        finished=True,
        loss=f"{facts['first_loss']:.4f} -> {facts['last_loss']:.4f}",
        files=tuple(f.path for f in stamp.outcome.files if f.path.endswith(".safetensors")),
    )


def _of_step(ctx: Context) -> RenderedLora:
    fingerprint, record = training_fingerprint(ctx), training_directory(ctx)
    shown = samples_of(ctx, record, ctx.step)
    if not all(file.is_file() for _, file in shown):
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
    )
