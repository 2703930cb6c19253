"""The environment variables under which Prefect, MLflow and the stages run. Imports nothing of Prefect."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ltxcore.store.sqlite_url import sqlite_url

LOOPBACK: Final = "127.0.0.1"
DATABASE_URL: Final = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
ASKED_DATABASE: Final = "LTX2_DATABASE_URL"


def prefect_home(workspace: str | Path) -> Path:
    """Where the workspace keeps Prefect's database, profiles and results."""
    return Path(workspace).expanduser().resolve() / "prefect"


def logs_directory(workspace: str | Path) -> Path:
    """Where the servers, the workers and the embedded stages write their logs."""
    return Path(workspace).expanduser().resolve() / "logs"


def prefect_environment(workspace: str | Path, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables for a process that runs flows of this workspace.

    What the user has set in the environment (`given`, by default `os.environ`) wins, except for
    PREFECT_HOME: a workspace keeps its own runs. A database that the user has named is not in it: its address
    may hold a password, and only the server needs it.
    """
    given = os.environ if given is None else given
    defaults = {
        # Nothing is sent anywhere.
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # The library logs by plain `logging`; this takes its records to the run's page.
        "PREFECT_LOGGING_EXTRA_LOGGERS": "ltxcore",
        # The zombie automation waits for three of them.
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        # Kept in memory, a lease is forgotten when the server restarts, and its slot is taken for ever.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_PLUGINS_ENABLED": "true",
        "PREFECT_PLUGINS_ALLOW": "ltx2",
        # A dead MLflow server must not hold up a training: the defaults block one call for 246 s.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    }
    environment = {name: given.get(name) or value for name, value in defaults.items()}
    home = prefect_home(workspace)
    environment["PREFECT_HOME"] = str(home)
    # Prefect's own default is wrong where the path holds a `?`.
    environment[DATABASE_URL] = sqlite_url(home / "prefect.db", "sqlite+aiosqlite")
    environment[ASKED_DATABASE] = ""
    environment["NO_PROXY"] = environment["no_proxy"] = _without_proxy(given)
    return environment


def server_settings(api_url: str) -> dict[str, str]:
    """Variables for the Prefect server that answers there: only its own pages may ask it."""
    return {
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": api_url.removesuffix("/api"),
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
    }


def worker_environment(workspace: str | Path, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables for a worker: it asks for work often, and runs without our command-line plugin.

    Prefect imports itself inside the worker's running loop on a cancellation, and the plugin hooks then
    fail with a traceback that means nothing.
    """
    environment = prefect_environment(workspace, given)
    environment["PREFECT_WORKER_QUERY_SECONDS"] = "2"
    environment["PREFECT_PLUGINS_ENABLED"] = "false"
    return environment


def _without_proxy(given: Mapping[str, str]) -> str:
    """The user's NO_PROXY with this machine added: a company proxy cannot reach our loopback servers."""
    hosts = [h for h in (given.get("NO_PROXY") or given.get("no_proxy") or "").split(",") if h]
    return ",".join([*hosts, *(h for h in (LOOPBACK, "localhost") if h not in hosts)])
