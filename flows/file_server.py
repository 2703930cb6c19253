"""Galleries and LoRA files over HTTP, so that the links of a run's page in Prefect's UI open in a browser.

Run as `python -m flows.file_server DIRECTORY HOST PORT`, behind the guard. Serves the stages' directories
read-only and nothing else of the workspace: no listings, no hidden files, no links that lead out, no pipes.
Videos can be wound: Starlette answers range requests.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path, PurePosixPath

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from flows.guard.serving import guarded, run
from ltxcore.store.workspace import UnknownSnapshot, Workspace

HEALTH = "/health"
CLIPS = "/clips/{snapshot}/{clip:path}"


class PlainFiles(StaticFiles):
    """The plain, visible files of a directory, and `index.html` for a folder that has one."""

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        if any(part.startswith(".") for part in PurePosixPath(path).parts):
            return "", None
        found, result = super().lookup_path(path)
        if result is None or not (stat.S_ISREG(result.st_mode) or stat.S_ISDIR(result.st_mode)):
            return "", None
        if any(part.startswith(".") for part in self._below(found).parts):
            return "", None
        return found, result

    def _below(self, found: str) -> Path:
        """The path inside the directory, links resolved: a visible link may lead to a hidden file."""
        return Path(found).relative_to(Path(str(self.directory)).resolve())


def clip_file(workspace: Workspace, snapshot: str, clip: str) -> Path | None:
    """The file of a clip that a snapshot names; None where there is none, or the file is gone.

    Nothing else of the datasets is served: the snapshot says what was looked at and taken.
    """
    try:
        found = workspace.load_snapshot(snapshot)
    except UnknownSnapshot:
        return None
    file = next((found.file(sample) for sample in found.samples if sample.id == clip), None)
    return file if file is not None and file.is_file() else None


def application(directory: Path) -> Starlette:
    """A read-only view of a directory; links that lead out of it are not followed.

    Beside it the clips of the workspace's snapshots, which its dataset reports play.
    """
    directory.mkdir(parents=True, exist_ok=True)
    workspace = Workspace(directory.parent)

    def health(request: Request) -> PlainTextResponse:
        return PlainTextResponse("OK")

    def clip(request: Request) -> Response:
        names = request.path_params
        file = clip_file(workspace, names["snapshot"], names["clip"])
        return PlainTextResponse("no such clip", 404) if file is None else FileResponse(file)

    return Starlette(
        routes=[
            Route(HEALTH, health),
            Route(CLIPS, clip),
            Mount("/", PlainFiles(directory=directory, html=True)),
        ],
    )


def main(directory: str, host: str, port: str) -> None:
    app = guarded(application(Path(directory)), host, private=True, open_paths=[HEALTH])
    run(app, host, int(port), log_level="warning")


if __name__ == "__main__":
    main(*sys.argv[1:])
