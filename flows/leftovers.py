"""Cleans up after killed runs and power cuts; the server does this before it answers requests.

Runs that still say Running, Pending or Cancelling are dead where their process is gone: an embedded run
lives no longer than its server, and a deployed one no longer than its worker. Only runs of a worker on
another machine (or started by hand) may live on; those are left to the zombie automation. A GPU slot that a
dead process held is given back at once, not only when its lease ends.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import psutil

from flows.environment import DATABASE_URL
from flows.raw_api import RawApi
from ltxcore.store.locks import is_held
from ltxcore.store.workspace import Workspace

CRASHED: Final = {
    "type": "CRASHED",
    "name": "Crashed",
    "message": "its process ended without a message, and so did the server",
}


log = logging.getLogger(__name__)


def worker_name(pool: str) -> str:
    """The name of this machine's worker of a pool; deploy/systemd gives it, too."""
    return f"{pool}-{socket.gethostname()}"


def close_leftovers(api: RawApi, home: Path) -> list[str]:
    """Mark dead runs Crashed and give their leases back; returns the names of the runs.

    Call it before anything else uses the server. Workers may be at work: under systemd they outlive it.

    Args:
        home: the server's PREFECT_HOME, WORKSPACE/prefect.
    """
    asked = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}}
    alive = _running_ids()
    dead = []
    # The server gives 200 runs at once; those that may live are asked for again.
    offset = 0
    while found := api.post("/flow_runs/filter", {**asked, "offset": offset}):
        closed = [run for run in found if run["id"] not in alive and not _may_live(api, home, run)]
        for run in closed:
            api.post(f"/flow_runs/{run['id']}/set_state", {"state": CRASHED, "force": True})
        dead += closed
        offset += len(found) - len(closed)
    _free_damaged_leases(api, home)
    give_back_leases(api, home, [run["id"] for run in dead])
    return [str(run["name"]) for run in dead]


def _running_ids() -> set[str]:
    """The ids of the flow runs that have a process on this machine."""
    found = set()
    for process in psutil.process_iter():
        try:
            found.add(process.environ().get("PREFECT__FLOW_RUN_ID", ""))
        except (psutil.Error, OSError):
            continue  # Another user's, or it has just ended.
    return found


def _may_live(api: RawApi, home: Path, run: dict[str, Any]) -> bool:
    """Whether a run without a process of its id may be at work nevertheless."""
    if run["deployment_id"] is None:
        # The parent of `ltx2 run` holds its folder.
        workspace = Workspace(home.parent)
        named = Path(run["parameters"].get("workspace") or workspace.root)
        if named.is_absolute() and Workspace(named).root != workspace.root:
            # Another workspace shares the database, and its own server sees to its runs; unless this is that
            # workspace, which was moved together with its database.
            shared = not os.environ.get(DATABASE_URL, "sqlite").startswith("sqlite")
            if shared or named.is_dir():
                return True
        return is_held(workspace.run_lock(workspace.run(run["parameters"].get("pipeline_run") or run["id"])))
    pool = run.get("work_pool_name")
    if not pool:
        return False
    # A worker that is not of this machine was heard of since this run began.
    begun = run["start_time"] or run["created"]
    workers = api.post(f"/work_pools/{quote(pool, safe='')}/workers/filter", {})
    return any(
        worker["name"] != worker_name(pool)
        and datetime.fromisoformat(worker["last_heartbeat_time"]) >= datetime.fromisoformat(begun)
        for worker in workers
        if worker["last_heartbeat_time"]
    )


def give_back_leases(api: RawApi, home: Path, runs: Collection[str]) -> None:
    """Free the slots that dead flow runs hold; a server that keeps its leases elsewhere frees them in time.

    Args:
        home: the server's PREFECT_HOME.
        runs: ids of flow runs whose processes have ended.
    """
    for file in _lease_files(home):
        lease = _lease(file)
        if lease is not None and _holder(lease) in runs:
            api.post("/v2/concurrency_limits/decrement-with-lease", {"lease_id": lease["id"]})


def _free_damaged_leases(api: RawApi, home: Path) -> None:
    """Drop lease files that a power cut has left damaged, and count the slots of every limit anew."""
    damaged = [file for file in _lease_files(home) if file.exists() and _lease(file) is None]
    if not damaged:
        return
    for file in damaged:
        log.warning("%s is damaged, as a power cut leaves it; it is removed and its slot is free again", file)
        file.unlink(missing_ok=True)
    leases = [lease for file in _lease_files(home) if (lease := _lease(file)) is not None]
    for limit in api.post("/v2/concurrency_limits/filter", {}):
        held = sum(lease["metadata"]["slots"] for lease in leases if limit["id"] in lease["resource_ids"])
        api.ask("PATCH", f"/v2/concurrency_limits/{limit['id']}", {"active_slots": held})


def _lease_files(home: Path) -> list[Path]:
    return list((home / "concurrency_leases").glob("*-*.json"))


def _lease(file: Path) -> dict[str, Any] | None:
    """What a lease file says, None where it is gone or damaged."""
    try:
        lease = json.loads(file.read_text())
        whole = isinstance(lease["id"], str) and isinstance(lease["metadata"]["slots"], int)
        return lease if whole and isinstance(lease["resource_ids"], list) else None
    except FileNotFoundError:
        return None  # Its holder has given it back meanwhile.
    except (ValueError, KeyError, TypeError):
        return None


def _holder(lease: dict[str, Any]) -> str | None:
    holder = lease["metadata"].get("holder")
    return holder.get("id") if isinstance(holder, dict) else None
