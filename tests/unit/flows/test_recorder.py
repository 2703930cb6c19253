"""What a recorder answers, keeps and makes of what it was told."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.recorder import journal
from flows.recorder.api import Recorder
from flows.recorder.journal import Journal
from flows.recorder.records import Records
from flows.recorder.slots import Slots


class Client:
    """Asks a recorder without a socket."""

    def __init__(self, home: Path) -> None:
        self._app = Recorder(Journal(home))

    def ask(self, method: str, path: str, **body: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1/api") as client:
                return await client.request(method, path, json=body)

        return asyncio.run(send())

    def make_run(self, key: str | None = None) -> dict[str, Any]:
        flow = self.ask("POST", "/flows/", name="some-flow").json()
        run: dict[str, Any] = self.ask("POST", "/flow_runs/", flow_id=flow["id"], idempotency_key=key).json()
        return run

    def enter(self, run: str, kind: str) -> dict[str, Any]:
        answer = self.ask("POST", f"/flow_runs/{run}/set_state", state={"type": kind})
        assert answer.json()["status"] == "ACCEPT"
        found: dict[str, Any] = self.ask("GET", f"/flow_runs/{run}").json()
        return found


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client(tmp_path)


def test_a_run_of_a_known_key_is_the_same_run(client: Client) -> None:
    one = client.make_run("key")
    assert client.make_run("key")["id"] == one["id"]
    assert client.make_run("other")["id"] != one["id"]
    assert client.make_run()["id"] != client.make_run()["id"]
    assert one["name"] == f"some-flow-{one['id'][:8]}"


def test_a_run_that_is_started_again_counts_both_times(client: Client, tmp_path: Path) -> None:
    run = client.make_run()["id"]
    assert client.enter(run, "RUNNING")["run_count"] == 1
    crashed = client.enter(run, "CRASHED")
    assert (crashed["state_name"], crashed["end_time"]) == ("Crashed", crashed["state"]["timestamp"])
    assert client.enter(run, "PENDING")["end_time"] is None
    assert client.enter(run, "RUNNING")["run_count"] == 2
    done = client.enter(run, "COMPLETED")
    assert done["start_time"] == crashed["start_time"]
    assert done["total_run_time"] > crashed["total_run_time"] > 0
    (file,) = journal.waiting(tmp_path)
    records = Records.of(journal.read(file))
    assert records.flow_runs[run] == done, "whoever reads the journal has what the recorder has"
    stamps = [state["timestamp"] for state in records.states[run]]
    assert stamps == sorted(set(stamps))


def test_a_run_that_its_recorder_left_is_crashed(client: Client, tmp_path: Path) -> None:
    left, done = client.make_run()["id"], client.make_run()["id"]
    client.enter(left, "RUNNING")
    client.enter(done, "COMPLETED")
    records = Records.of(journal.read(journal.waiting(tmp_path)[0]))
    records.end_dead()
    assert records.flow_runs[left]["state_name"] == "Crashed"
    assert records.flow_runs[done]["state_name"] == "Completed"


def test_a_slot_is_held_until_its_run_is_over(client: Client) -> None:
    limit = "gpu:here"
    assert client.ask("GET", f"/v2/concurrency_limits/{limit}").status_code == 404
    client.ask("POST", "/v2/concurrency_limits/", name=limit, limit=1)
    run = client.make_run()["id"]
    asked = {"names": [limit], "slots": 1, "lease_duration": 60, "holder": {"type": "flow_run", "id": run}}
    lease = client.ask("POST", "/v2/concurrency_limits/increment-with-lease", **asked).json()["lease_id"]
    assert client.ask("GET", f"/v2/concurrency_limits/{limit}").json()["active_slots"] == 1
    waits = client.ask("POST", "/v2/concurrency_limits/increment-with-lease", **asked)
    assert waits.status_code == 423
    assert float(waits.headers["Retry-After"]) > 0
    renew = f"/v2/concurrency_limits/leases/{lease}/renew"
    assert client.ask("POST", renew, lease_duration=60).status_code == 204
    client.enter(run, "CRASHED")
    client.enter(run, "RUNNING")  # Started again: what its killed process held is free all the same.
    assert client.ask("POST", renew, lease_duration=60).status_code == 410
    assert client.ask("GET", f"/v2/concurrency_limits/{limit}").json()["active_slots"] == 0


def test_a_lease_that_nobody_renews_ends() -> None:
    now = 0.0
    slots = Slots(lambda: now)
    slots.make("gpu", 1, "today")
    lease = slots.take("gpu", 1, None, 60.0)
    assert lease is not None
    now = 59.0
    assert slots.renew(lease, 60.0)
    now = 118.0
    assert slots.take("gpu", 1, None, 60.0) is None
    now = 120.0
    assert not slots.renew(lease, 60.0)
    other = slots.take("gpu", 1, None, 60.0)
    assert other is not None
    slots.give_back(other)
    assert slots.take("gpu", 1, None, 60.0) is not None


def test_what_it_is_not_made_for_is_refused(client: Client) -> None:
    answer = client.ask("POST", "/deployments/filter")
    assert answer.status_code == 501
    assert "without a Prefect server" in answer.json()["detail"]
    assert client.ask("GET", "/flow_runs/none").status_code == 404


def test_a_journal_is_left_alone_while_it_is_written(tmp_path: Path) -> None:
    writing = Journal(tmp_path)
    writing.write({"what": "flow", "told": {"id": "1"}}, lasting=True)
    (file,) = journal.waiting(tmp_path)
    with journal.over(file) as is_over:
        assert not is_over
    writing.close()
    with journal.over(file) as is_over:
        assert is_over


@contextmanager
def room(size: int) -> Iterator[None]:
    """No file grows beyond a size, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_entry_without_room_leaves_nothing_of_itself(tmp_path: Path) -> None:
    writing = Journal(tmp_path)
    first, second = ({"what": "event", "told": {"n": n, "text": "x" * 100}} for n in (1, 2))
    with room(200):
        writing.write(first, lasting=False)
        with pytest.raises(OSError, match="File too large"):
            writing.write(second, lasting=False)
    writing.write(second, lasting=False)
    assert list(journal.read(journal.waiting(tmp_path)[0])) == [first, second]
