"""A recorder behind the guard: `python -m flows.guard.recorder HOST PORT`."""

from __future__ import annotations

import sys

from flows.guard.serving import guarded, home_and_secret, run
from flows.recorder.api import Recorder
from flows.recorder.journal import Journal


def main(host: str, port: str) -> None:
    """Record the runs of the workspace that PREFECT_HOME names."""
    home, _ = home_and_secret()
    app = guarded(Recorder(Journal(home)), host, private=True, open_paths=["/api/health"])
    run(app, host, int(port), log_level="warning")


if __name__ == "__main__":
    main(*sys.argv[1:])
