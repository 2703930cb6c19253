"""What killed runs left behind, put right.

A GPU slot that a dead process held is given back at once, not only when its lease ends. When the server of a
workspace starts again, embedded runs that still say Running are dead, because such a run lives no longer than
its server. Deployed runs are left to their workers and the zombie automation. Plain HTTP: Prefect's client
would have to be imported first.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from flows.environment import prefect_home

DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
CRASHED: Final = {
    "type": "CRASHED",
    "name": "Crashed",
    "message": "its process ended without a word, and the server with it",
}


def close_leftovers(api_url: str, workspace: str | Path) -> list[str]:
    """Mark dead embedded runs Crashed and give their leases back; returns the names of the runs.

    Call it before anything else uses the server.
    """
    asked = {
        "flow_runs": {
            "state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}},
            "deployment_id": {"is_null_": True},
        }
    }
    dead = _post(f"{api_url}/flow_runs/filter", asked)
    for run in dead:
        _post(f"{api_url}/flow_runs/{run['id']}/set_state", {"state": CRASHED, "force": True})
    give_back_leases(api_url, prefect_home(workspace), [run["id"] for run in dead])
    return [str(run["name"]) for run in dead]


def give_back_leases(api_url: str, home: Path, runs: Collection[str]) -> None:
    """Free the slots that dead flow runs hold; a server that keeps its leases elsewhere frees them in time.

    Args:
        home: the server's PREFECT_HOME.
        runs: ids of flow runs whose processes have ended.
    """
    for file in (home / "concurrency_leases").glob("*-*.json"):
        try:
            lease = json.loads(file.read_text())
        except FileNotFoundError:
            continue  # Its holder has given it back meanwhile.
        holder = (lease.get("metadata") or {}).get("holder") or {}
        if holder.get("id") in runs:
            _post(f"{api_url}/v2/concurrency_limits/decrement-with-lease", {"lease_id": lease["id"]})


def _post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(  # noqa: S310 - our own server's address
        url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with DIRECT.open(request, timeout=30) as answer:
        text = answer.read()
    return json.loads(text) if text else None
