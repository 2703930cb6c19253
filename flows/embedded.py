"""A flow in a process of its own, without a worker: `python -m flows.embedded FLOW PARAMETERS ERROR_FILE`.

`ltx2 run` and `ltx2 stage` start it: the terminal belongs to the display, this process to Prefect.
"""

from __future__ import annotations

import sys
from pathlib import Path

from flows.train import STAGE_FLOWS, train_ltx2
from ltxcore.store.blobs import read_json, write_atomic

FLOWS = {train_ltx2.name: train_ltx2, **STAGE_FLOWS}


def main(name: str, parameters_file: str, error_file: str) -> None:
    """Run the flow; on failure leave its last words in a file for whoever started this process."""
    try:
        FLOWS[name](**read_json(Path(parameters_file)))
    except Exception as error:
        write_atomic(Path(error_file), f"{error}\n".encode())
        raise


if __name__ == "__main__":
    main(*sys.argv[1:])
