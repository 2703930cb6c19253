"""Pictures, tables and links on a run's page in Prefect's UI."""

from __future__ import annotations

import base64
import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

from prefect import get_client
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.schemas.actions import ArtifactUpdate

from ltxcore.pipeline.base.progress import ProgressState

UPDATE_EVERY_S = 10.0
# A table of every clip of a large dataset would only bloat the database; the CSV has them all.
TABLE_ROWS = 500


def table(key: str, rows: list[dict[str, Any]], description: str) -> None:
    shown = rows[:TABLE_ROWS]
    if len(shown) < len(rows):
        description += f" (the first {TABLE_ROWS} of {len(rows)})"
    create_table_artifact(table=shown, key=key, description=description)


def markdown(key: str, text: str, description: str) -> None:
    create_markdown_artifact(markdown=text, key=key, description=description)


def picture(key: str, path: Path, description: str) -> None:
    """A picture inside the artifact itself: the UI's server cannot reach files of the workspace."""
    create_image_artifact(image_url=_data_url(path), key=key, description=description)


def _data_url(path: Path) -> str:
    kind = {".png": "png", ".jpg": "jpeg"}[path.suffix]
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


class LivePicture:
    """A picture that is drawn anew while the run goes on: one artifact, not one for each drawing."""

    def __init__(self, key: str, description: str) -> None:
        self._key, self._description = key, description
        self._id: UUID | None = None

    def show(self, path: Path) -> None:
        """Show the picture as it is now."""
        if self._id is None:
            self._id = _uuid(create_image_artifact(_data_url(path), self._key, self._description))
            return
        with get_client(sync_client=True) as client:
            client.update_artifact(self._id, ArtifactUpdate(data=_data_url(path)))


def _uuid(created: object) -> UUID:
    return created if isinstance(created, UUID) else UUID(str(created))


def link(key: str, path: Path, workspace: Path, description: str) -> None:
    """A link to a file of the workspace: through the file server of `ltx2 serve` where one runs."""
    create_link_artifact(
        link=file_link(path, workspace), key=key, link_text=path.name, description=description
    )


def web_link(key: str, url: str, text: str, description: str) -> None:
    """A link to a page elsewhere."""
    create_link_artifact(link=url, key=key, link_text=text, description=description)


def file_link(path: Path, workspace: Path) -> str:
    served = os.environ.get("LTX2_FILES_URL")
    if served:
        return f"{served}/{quote(path.resolve().relative_to(workspace / 'stages').as_posix())}"
    return path.resolve().as_uri()


class ProgressArtifact:
    """A bar on the run's page, updated every 10 s at most: each update is a write of the server."""

    def __init__(self, key: str, description: str) -> None:
        self._key, self._description = key, description
        self._id: UUID | None = None
        self._updated_s = 0.0

    def __call__(self, state: ProgressState) -> None:
        if state.total == 0:
            return
        percent = min(100.0, 100.0 * state.done / state.total)
        now = time.monotonic()
        if self._id is None:
            created = create_progress_artifact(percent, self._key, self._description)
            self._id = _uuid(created)
        elif percent >= 100 or now - self._updated_s >= UPDATE_EVERY_S:
            shown = f"{self._description}: {state.done} of {state.total} {state.unit}, {state.message}"
            update_progress_artifact(self._id, percent, shown)
        else:
            return
        self._updated_s = now
