"""Word for the zombie automation that the process of a run has ended by itself.

A run whose heartbeats cease is marked Crashed, unless something has said why they cease: its last state, in
general. A suspended run ends its process long after that state, at its next task, and sends heartbeats until
then. This event comes after the last of them.
"""

from __future__ import annotations

import atexit
import logging
from typing import Final

import httpx
from prefect import get_client, runtime
from prefect.events import Event

ENDED: Final = "ltx2.flow-run.process-ended"
"""deploy/automations.yaml expects it."""

log = logging.getLogger(__name__)


def tell_of_end() -> None:
    """Tell the server when the process of a deployed run ends; a killed process sends nothing."""
    if runtime.deployment.id is not None:
        atexit.register(_tell, str(runtime.flow_run.id))


def _tell(run: str) -> None:
    event = Event(event=ENDED, resource={"prefect.resource.id": f"prefect.flow-run.{run}"})
    try:
        with get_client(sync_client=True) as client:
            client.request("POST", "/events", json=[event.model_dump(mode="json")])
    except httpx.HTTPError as error:
        log.warning("the server was not told that the process of the run %s has ended: %s", run, error)
