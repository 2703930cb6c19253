"""What the services of a Prefect server do, brought about by requests alone.

Each function gives the server something to do and returns a question: whether it has been done.
"""

from __future__ import annotations

import json
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from websockets.sync.client import connect

from flows.environment import logs_directory, prefect_home
from flows.secret import find_secret
from flows.server import find_server
from tests.e2e.serving import api

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

Question = Callable[[], object]
FLOW = "made-by-hand"
POOL = "nobody"


def turns(workspace: Path) -> Counter[str]:
    """How often each task of the server was begun; it must log at INFO."""
    text = (logs_directory(workspace) / "server.log").read_text()
    return Counter(re.findall(r"↪ \[.*?\] (\w+)\(", text))


TELEMETRY = "send_telemetry_heartbeat"


def services() -> set[str]:
    """The loops that Prefect's server has, by its own registry, but those that are off unless asked for.

    Telemetry is on by Prefect's defaults, which hold here, and off on our servers.
    """
    from prefect.server.api import background_workers  # noqa: F401 - it registers them
    from prefect.server.services.perpetual_services import get_enabled_perpetual_services

    return {config.function.__name__ for config in get_enabled_perpetual_services()} - {TELEMETRY}


def expire_a_pause(workspace: Path) -> Question:
    """A paused run whose time is out fails."""
    with api(workspace) as client:
        run = _running(client)
        _pause(client, run, timedelta(seconds=1))
    return lambda: _is(workspace, run, "Failed", "never resumed")


def cancel_a_parent(workspace: Path) -> Question:
    """The tasks and the child runs of a cancelled run are cancelled, too."""
    from prefect.client.schemas.objects import State, StateType

    with api(workspace) as client:
        parent = _running(client)
        asked = {"flow_run_id": parent, "task_key": "child", "dynamic_key": "0"}
        running = {"type": "RUNNING", "name": "Running"}
        made = client.request("POST", "/task_runs/", json={**asked, "state": running})
        task = made.raise_for_status().json()["id"]
        child = _running(client, parent_task_run_id=task)
        client.set_flow_run_state(parent, State(type=StateType.CANCELLED), force=True)

    def done() -> bool:
        with api(workspace) as client:
            answer = client.request("GET", "/task_runs/{id}", path_params={"id": task}).json()
        return answer["state"]["type"] == "CANCELLED" and _is(
            workspace, child, "Cancelled", "parent flow run"
        )

    return done


def lose_a_lease(workspace: Path) -> Question:
    """A slot whose holder says nothing more is free again; a lease lasts a minute at least."""
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate

    with api(workspace) as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name="lost", limit=1))
        take_slot(client, "lost", 60)

    def done() -> bool:
        with api(workspace) as client:
            return client.read_global_concurrency_limit_by_name("lost").active_slots == 0

    assert not done()
    return done


def take_slot(client: SyncPrefectClient, limit: str, lease_s: int) -> str:
    """The id of the lease."""
    asked = {"slots": 1, "names": [limit], "lease_duration": lease_s}
    answer = client.request("POST", "/v2/concurrency_limits/increment-with-lease", json=asked)
    return str(answer.raise_for_status().json()["lease_id"])


def age_an_event(workspace: Path) -> Question:
    """Of two heartbeats, the one that is older than a week is deleted."""
    thing = f"ltx2.test.{uuid.uuid4()}"
    now = datetime.now(UTC)
    events = [
        {
            "id": str(uuid.uuid4()),
            "occurred": (now - age).isoformat(),
            "event": "prefect.flow-run.heartbeat",
            "resource": {"prefect.resource.id": thing},
        }
        for age in (timedelta(days=30), timedelta(seconds=1))
    ]
    with api(workspace) as client:
        client.request("POST", "/events", json=events).raise_for_status()

    def done() -> bool:
        since = (now - timedelta(days=60)).isoformat()
        filters = {"resource": {"id": [thing]}, "occurred": {"since": since}}
        with api(workspace) as client:
            found = client.request("POST", "/events/filter", json={"filter": filters}).json()["events"]
        return [event["id"] for event in found] == [events[1]["id"]]

    return done


def forget_a_cancellation(workspace: Path) -> Question:
    """A run that nobody cancels counts as cancelled after a while, and its worker is told to clean up.

    The worker here says nothing to that, so it is told again.
    """
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.client.schemas.objects import State, StateType

    with api(workspace) as client:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        flow = client.create_flow_from_name(FLOW)
        deployment = client.create_deployment(
            flow, POOL, work_pool_name=POOL, entrypoint="nowhere.py:nothing"
        )
        run = client.create_flow_run_from_deployment(deployment).id
    deliveries: list[int] = []
    with _silent_worker(workspace) as channel:
        with api(workspace) as client:
            for kind in (StateType.RUNNING, StateType.CANCELLING):
                client.set_flow_run_state(run, State(type=kind), force=True)
        while len(deliveries) < 2:
            frame = json.loads(channel.recv(timeout=600))
            if frame["type"] == "cleanup.message.v1":
                assert frame["payload"]["target"]["flow_run_id"] == str(run)
                deliveries.append(frame["payload"]["delivery_count"])
    assert deliveries == [1, 2]
    return lambda: _is(workspace, run, "Cancelled", "timed out")


@contextmanager
def _silent_worker(workspace: Path) -> Iterator[Any]:
    """A worker's connection to the server that takes every message and answers none."""
    from prefect.client.schemas.worker_channel import CANCELLING_TIMEOUT_TEARDOWN as KIND
    from prefect.client.schemas.worker_channel import SUPPORTED_WORKER_CHANNEL_CAPABILITIES as CAPABILITIES
    from prefect.client.schemas.worker_channel import WORK_POOL_WORKER_CHANNEL_VERSION as VERSION

    server = find_server(workspace)
    assert server is not None
    hello = {
        "type": "worker.hello.v1",
        "id": str(uuid.uuid4()),
        "sent_at": datetime.now(UTC).isoformat(),
        "payload": {
            "consumer_id": str(uuid.uuid4()),
            "worker_name": "silent",
            "worker_type": "process",
            "heartbeat_interval_seconds": 30,
            "supported_channel_versions": [VERSION],
            "requested_capabilities": sorted(CAPABILITIES),
            "handled_cleanup_kinds": [KIND],
        },
    }
    url = f"{server.url.replace('http', 'ws', 1)}/work_pools/{POOL}/workers/connect"
    with connect(url, subprotocols=["prefect"], proxy=None) as channel:  # type: ignore[list-item]
        channel.send(json.dumps({"type": "auth", "token": find_secret(prefect_home(workspace))}))
        channel.send(json.dumps(hello))
        kinds = [json.loads(channel.recv(timeout=600))["type"] for _ in range(2)]
        assert kinds == ["auth_success", "worker.ready.v1"]
        yield channel


def suspend(workspace: Path, run: Any) -> None:
    """What the button Suspend of the UI asks for."""
    with api(workspace) as client:
        _pause(client, run, timedelta(hours=1), name="Suspended", reschedule=True)


def _pause(
    client: SyncPrefectClient, run: Any, limit: timedelta, name: str = "Paused", reschedule: bool = False
) -> None:
    details = {"pause_timeout": (datetime.now(UTC) + limit).isoformat(), "pause_reschedule": reschedule}
    asked = {"state": {"type": "PAUSED", "name": name, "state_details": details}}
    answer = client.request("POST", "/flow_runs/{id}/set_state", path_params={"id": str(run)}, json=asked)
    assert answer.json()["status"] == "ACCEPT", answer.json()


def _running(client: SyncPrefectClient, **more: Any) -> str:
    """A run of no process that says Running."""
    from prefect.client.schemas.objects import State, StateType

    asked = {"flow_id": str(client.create_flow_from_name(FLOW)), "name": uuid.uuid4().hex, **more}
    run = str(client.request("POST", "/flow_runs/", json=asked).raise_for_status().json()["id"])
    client.set_flow_run_state(run, State(type=StateType.RUNNING), force=True)
    return run


def _is(workspace: Path, run: Any, name: str, message: str) -> bool:
    with api(workspace) as client:
        state = client.read_flow_run(run).state
    return state is not None and state.name == name and message in (state.message or "")
