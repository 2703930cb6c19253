"""Galleries and LoRA files over HTTP, so that the links of a run's page in Prefect's UI open in a browser.

Run as `python -m flows.file_server DIRECTORY HOST PORT`. Serves the stages' directories read-only and nothing
else of the workspace. Videos can be wound: Starlette answers range requests.
"""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

HEALTH = "/health"


def application(directory: Path) -> Starlette:
    """A read-only view of a directory; links that lead out of it are not followed."""
    directory.mkdir(parents=True, exist_ok=True)

    def health(request: Request) -> PlainTextResponse:
        return PlainTextResponse("OK")

    return Starlette(
        routes=[Route(HEALTH, health), Mount("/", StaticFiles(directory=directory, html=True))],
    )


def main(directory: str, host: str, port: str) -> None:
    uvicorn.run(application(Path(directory)), host=host, port=int(port), log_level="warning")


if __name__ == "__main__":
    main(*sys.argv[1:])
