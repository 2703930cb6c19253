"""The MLflow run of a training."""

from __future__ import annotations

from pathlib import Path

from ltxcore.pipeline.base.context import Context
from ltxcore.tracking.mlflow_run import MlflowRun, tracking_of


def tracker(ctx: Context, directory: Path) -> MlflowRun:
    """The MLflow run of a training; its state lies in the training's directory, so other stages find it."""
    settings = ctx.recipe.tracking
    return MlflowRun(
        tracking_of(settings, ctx.workspace.mlflow),
        settings.tracker_project_name,
        settings.tracker_run_name or f"train-{directory.name}",
        directory / "mlflow.json",
    )
