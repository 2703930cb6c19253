"""A flow in a process of its own, without a worker: `python -m flows.embedded FLOW PARAMETERS ERROR_FILE`.

`ltx2 run` and `ltx2 stage` start it: the terminal belongs to the display, this process to Prefect.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from flows.child_process import run_and_end, uncollected
from flows.forked_stage import fork_server
from flows.orphan import end_with_parent
from flows.stage_server import ENVIRONMENT
from ltxcore.store.blobs import read_json, write_atomic
from ltxcore.variables import variables_set


def main(name: str, parameters_file: str, error_file: str) -> None:
    """Run the flow; on failure write its error to a file for the process that started this one."""
    # One thread, so that it can be forked: numpy's pool would begin with the import.
    with variables_set(ENVIRONMENT), uncollected():
        from flows.stages import STAGE_FLOWS
        from flows.train import train_ltx2
    if name == train_ltx2.name:
        fork_server()
    end_with_parent(os.environ["PREFECT_API_URL"])
    flow: Any = {train_ltx2.name: train_ltx2, **STAGE_FLOWS}[name]
    try:
        flow(**read_json(Path(parameters_file)))
    except Exception as error:
        write_atomic(Path(error_file), f"{error}\n".encode())
        raise


if __name__ == "__main__":
    run_and_end(partial(main, *sys.argv[1:]))
