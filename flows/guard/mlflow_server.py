"""MLflow's server behind the guard: `python -m flows.guard.mlflow_server HOST PORT DIRECTORY`.

In place of `mlflow server`. MLflow's own checks trust every page of `localhost`, whatever its port, and know
no sign-in. Its auth app would need a package more (Flask-WTF), a database of users, and a password typed into
every browser; the guard takes the session of the link that signed in to Prefect's UI.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from flows.guard.serving import guarded, run
from ltxcore.store.sqlite_url import sqlite_url


def main(host: str, port: str, directory: str) -> None:
    home = Path(directory)
    home.mkdir(parents=True, exist_ok=True)
    os.environ.update(
        {
            # The guard does all of it, and does not refuse our own pages under another name.
            "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "true",
            # Without this it keeps ten processes and 1.25 GB for jobs that nobody gives it.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
    )
    from mlflow.server import constants
    from mlflow.server.handlers import initialize_backend_stores

    store, artifacts = sqlite_url(home / "mlflow.db"), "mlflow-artifacts:/"
    os.environ.update(
        {
            constants.BACKEND_STORE_URI_ENV_VAR: store,
            constants.REGISTRY_STORE_URI_ENV_VAR: store,
            constants.ARTIFACT_ROOT_ENV_VAR: artifacts,
            constants.SERVE_ARTIFACTS_ENV_VAR: "true",
            constants.ARTIFACTS_DESTINATION_ENV_VAR: str(home / "artifacts"),
        }
    )
    initialize_backend_stores(store, store, artifacts)
    from mlflow.server.fastapi_app import app

    run(guarded(app, host, private=True, open_paths=["/health"]), host, int(port), log_level="info")


if __name__ == "__main__":
    main(*sys.argv[1:])
