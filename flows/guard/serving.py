"""Running a guarded application by uvicorn. The secret comes by the environment."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp

from flows.guard.hosts import known_names
from flows.guard.middleware import Guard
from flows.secret import SERVER_VARIABLE

CLOSE_LIMIT_S: Final = 5
"""A browser's open connection does not hold up the end for longer."""


def home_and_secret() -> tuple[Path, str]:
    """PREFECT_HOME and the servers' secret, which the environment names.

    Raises:
        SystemExit: one of the two is not set.
    """
    missing = [name for name in ("PREFECT_HOME", SERVER_VARIABLE) if not os.environ.get(name)]
    if missing:
        raise SystemExit(f"{' and '.join(missing)} must be set; `ltx2 serve` does it")
    return Path(os.environ["PREFECT_HOME"]), os.environ[SERVER_VARIABLE]


def guarded(app: ASGIApp, host: str, *, private: bool, open_paths: Iterable[str] = ()) -> Guard:
    """The guard of the workspace whose PREFECT_HOME and secret the environment names.

    Raises:
        SystemExit: one of the two is not set.
    """
    home, secret = home_and_secret()
    return Guard(
        app, names=known_names(host), home=home, secret=secret, private=private, open_paths=open_paths
    )


def run(app: ASGIApp, host: str, port: int, **options: Any) -> None:
    """Serve until SIGTERM or SIGINT. The port is bound first, so that an occupied port is reported at
    once."""
    # A crash inside a C library, such as SQLite's, would end the process without a word in its log.
    faulthandler.enable()
    config = uvicorn.Config(app, host=host, port=port, timeout_graceful_shutdown=CLOSE_LIMIT_S, **options)
    socket = config.bind_socket()
    uvicorn.Server(config).run(sockets=[socket])
