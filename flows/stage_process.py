"""The process of an embedded stage: Prefect's own engine, started by `run_stage` as a worker would start it.

Run as `python -m flows.stage_process` with PREFECT__FLOW_RUN_ID and PREFECT__FLOW_ENTRYPOINT set.
"""

from __future__ import annotations

import os
import runpy

from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from flows.orphan import end_with_parent


def main() -> None:
    end_with_parent(os.environ["PREFECT_API_URL"])
    # The parent watches this process itself, and the heartbeat thread costs a second at the end of a run.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        runpy.run_module("prefect.engine", run_name="__main__")


if __name__ == "__main__":
    main()
