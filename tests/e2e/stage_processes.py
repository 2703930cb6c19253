"""Finding the processes of embedded stages: fresh ones, and those that a stage server has forked."""

from __future__ import annotations

from collections.abc import Iterable

import psutil


def stages_among(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that are a stage."""
    return [process for process in processes if _is_stage(process)]


def _is_stage(process: psutil.Process) -> bool:
    try:
        if "flows.stage_process" in process.cmdline():
            return True
        # A forked process has the command line of the one it comes from: of a server that was started as
        # such, or of the parent flow, from which the server is forked itself.
        lineage = [process, *process.parents()[:2]]
        of_flow = len(lineage) == 3 and all("flows.embedded" in p.cmdline() for p in lineage)
        return of_flow or (len(lineage) > 1 and all("flows.stage_server" in p.cmdline() for p in lineage[:2]))
    except psutil.Error:
        return False  # It has just ended, or is another user's.
