"""Where a training is recorded."""

from __future__ import annotations

from pydantic import Field, field_validator

from ltxcore.config.base import Strict


class TrackingSettings(Strict):
    """Where MLflow records the run."""

    mlflow_tracking_uri: str | None = Field(
        None,
        description="Default: SQLite in the workspace. A user name or password belongs in the environment.",
    )
    tracker_project_name: str = Field("ltx2", min_length=1, description="The MLflow experiment.")
    tracker_run_name: str | None = Field(
        None, description="The MLflow run. Default: model, datasets, length and the training's id."
    )

    @field_validator("mlflow_tracking_uri")
    @classmethod
    def _no_secret(cls, uri: str | None) -> str | None:
        if uri is not None and "@" in uri.split("://", 1)[-1].split("/", 1)[0]:
            raise ValueError(
                "holds a user name or password; give them as MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD in the environment"
            )
        return uri
