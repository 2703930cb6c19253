"""The MLflow run of a training."""

from __future__ import annotations

from pathlib import Path

from ltxcore.pipeline.base.context import Context
from ltxcore.stages.train_lora.request import trigger
from ltxcore.tracking.mlflow_run import MlflowRun, tracking_of

NOTE = "mlflow.note.content"
"""The tag that MLflow shows as the description of a run."""
ID_CHARACTERS = 6


def tracker(ctx: Context, directory: Path) -> MlflowRun:
    """The MLflow run of a training; its state lies in the training's directory, so other stages find it."""
    settings = ctx.recipe.tracking
    return MlflowRun(
        tracking_of(settings, ctx.workspace.mlflow),
        settings.tracker_project_name,
        settings.tracker_run_name or _name(ctx, directory),
        directory / "mlflow.json",
    )


def description(ctx: Context, directory: Path) -> dict[str, str]:
    """Tags by which people find a training in MLflow, and its description."""
    words, samples = trigger(ctx), ctx.snapshot.samples
    lines = [
        f"{_name(ctx, directory)}: {len(samples)} clips of snapshot {ctx.snapshot.id}.",
        *([f"Trigger: {words}."] if words else []),
        f"Its LoRA, pictures and galleries are below Artifacts; its files are in `{directory}`.",
    ]
    found = {"model": _model(ctx), "dataset": _datasets(ctx), "trigger": words, NOTE: "\n\n".join(lines)}
    return {name: value for name, value in found.items() if value}


def _name(ctx: Context, directory: Path) -> str:
    training = ctx.recipe.training
    epochs = training.num_train_epochs
    length = f"{epochs} epochs" if epochs else f"{training.max_train_steps} steps"
    return f"{_model(ctx)} on {_datasets(ctx)}, {length} ({directory.name[:ID_CHARACTERS]})"


def _model(ctx: Context) -> str:
    return ctx.recipe.model.pretrained_model_name_or_path.rstrip("/").rpartition("/")[2]


def _datasets(ctx: Context) -> str:
    return ", ".join(sorted({sample.dataset for sample in ctx.snapshot.samples}))
