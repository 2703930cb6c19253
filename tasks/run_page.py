"""The page of a run on its Artifacts tab: one artifact, written anew while the run goes on."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import Final
from uuid import UUID

import httpx
from prefect import get_client
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.actions import ArtifactUpdate

from ltxcore.jobs.report.run_page import DESCRIPTION, KEY, RunPage
from ltxcore.pipeline.base.context import Context
from tasks.artifacts import file_link

EVERY_S: Final = 10.0
MLFLOW_URL: Final = "LTX2_MLFLOW_URL"
"""Where a browser finds MLflow; `ltx2 serve` sets it for its workers."""
log = logging.getLogger(__name__)


class LivePage:
    """The artifact of this flow run."""

    def __init__(self, ctx: Context, run: Path) -> None:
        root = ctx.workspace.root
        mlflow = "" if ctx.recipe.tracking.mlflow_tracking_uri else os.environ.get(MLFLOW_URL, "")
        self._page = RunPage(ctx, run, lambda file: file_link(file, root), mlflow)
        self._id: UUID | None = None
        self._ended = False
        self._lock = threading.Lock()

    def show(self) -> None:
        """Write it as it is now."""
        with self._lock:
            if not self._ended:
                self._write("")

    def end(self, ended: str) -> None:
        """Write it for the last time."""
        with self._lock:
            self._ended = True
            self._write(ended)

    def _write(self, ended: str) -> None:
        text = self._page.markdown(ended)
        if self._id is None:
            made: object = create_markdown_artifact(text, KEY, DESCRIPTION)
            self._id = made if isinstance(made, UUID) else UUID(str(made))
            return
        with get_client(sync_client=True) as client:
            client.update_artifact(self._id, ArtifactUpdate(data=text))


@contextmanager
def live_page(ctx: Context, run: Path) -> Iterator[None]:
    """Keep the page of this flow run up to date while the body runs."""
    page, over = LivePage(ctx, run), threading.Event()
    page.show()

    def attempt() -> None:
        try:
            page.show()
        except httpx.HTTPError as error:
            # The run does not need it, and the next time may succeed.
            log.warning("the page of the run was not written: %s", error)

    def keep() -> None:
        while not over.wait(EVERY_S):
            attempt()

    # A daemon: a run that is cancelled does not wait for it.
    threading.Thread(target=copy_context().run, args=(keep,), name="run-page", daemon=True).start()
    try:
        yield
    except Exception:
        attempt()
        raise
    finally:
        over.set()
    page.end("Done")
