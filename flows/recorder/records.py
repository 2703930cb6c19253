"""What a journal says of flows, runs and artifacts: the state of a recorder, made of entries alone.

The recorder applies an entry when it has written it; whoever takes the journal up applies all of them again,
and has the same. Objects are as Prefect's API shows them (3.9), as plain JSON.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from flows.recorder.journal import Entry

Object = dict[str, Any]
FINAL: Final = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
CRASHED: Final = {"type": "CRASHED", "message": "its process ended without a message, as did its recorder"}
TASK_RUN: Final = "prefect.task-run."
"""Events begin so that say a new state of a task run: Prefect has no other word of it."""


def now() -> str:
    """The time as the API writes it."""
    return datetime.now(UTC).isoformat()


def new_object(given: Object, at: str) -> Object:
    """What was asked for, with an identity and a time."""
    return {"id": str(uuid.uuid4()), "created": at, "updated": at, **given}


def new_state(given: Object, at: str) -> Object:
    """A state as the server would keep it."""
    named = given.get("name") or given["type"].replace("_", " ").title()
    details = given.get("state_details") or {}
    kept = {"message": None, "data": None, **given, "name": named, "state_details": details}
    return {**kept, "id": str(uuid.uuid4()), "timestamp": at}


@dataclass
class Records:
    """Everything that a journal tells, by id."""

    flows: dict[str, Object] = field(default_factory=dict)
    flow_runs: dict[str, Object] = field(default_factory=dict)
    task_runs: dict[str, Object] = field(default_factory=dict)
    """The placeholders of child runs; other task runs are known from events."""
    states: dict[str, list[Object]] = field(default_factory=dict)
    """The states of each flow run, in order."""
    artifacts: dict[str, Object] = field(default_factory=dict)
    logs: list[Object] = field(default_factory=list)
    events: list[Object] = field(default_factory=list)

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Records:
        """What these entries say together."""
        records = cls()
        for entry in entries:
            records.apply(entry)
        return records

    def apply(self, entry: Entry) -> None:
        """Take in one entry."""
        what, content = entry["what"], entry["told"]
        if what == "flow":
            self.flows[content["id"]] = content
        elif what == "flow run":
            self.flow_runs[content["id"]] = {**_UNBEGUN, **content}
            self.states[content["id"]] = []
        elif what == "state":
            self._enter(entry["of"], content)
        elif what == "task run":
            self.task_runs[content["id"]] = content
        elif what == "artifact":
            self.artifacts[content["id"]] = content
        elif what == "flow run changed":
            self.flow_runs[entry["of"]].update(content)
        elif what == "artifact changed":
            self.artifacts[entry["of"]].update(content)
        elif what == "logs":
            self.logs += content
        else:
            self.events.append(content)

    def run_of_key(self, flow_id: str, key: str | None) -> Object | None:
        """The run of a flow that has an idempotency key, None where there is none."""
        runs = (run for run in self.flow_runs.values() if run["flow_id"] == flow_id)
        return None if key is None else next((run for run in runs if run["idempotency_key"] == key), None)

    def flow_named(self, name: str) -> Object | None:
        """The flow of a name, None where it is new."""
        return next((flow for flow in self.flows.values() if flow["name"] == name), None)

    def next_moment(self, run_id: str) -> str:
        """A time for a run's next state: no two states of a run have the same one."""
        at, states = now(), self.states[run_id]
        if states and at <= states[-1]["timestamp"]:
            return (datetime.fromisoformat(states[-1]["timestamp"]) + timedelta(microseconds=1)).isoformat()
        return at

    def end_dead(self) -> None:
        """Say of each run that was at work when its recorder ended that it crashed: it ended with it."""
        for run_id, run in self.flow_runs.items():
            if run["state_type"] not in FINAL:
                self._enter(run_id, new_state(CRASHED, self.next_moment(run_id)))

    def _enter(self, run_id: str, state: Object) -> None:
        """Let a run enter a state, with all that Prefect's server derives from it."""
        run, states = self.flow_runs[run_id], self.states[run_id]
        at, before = state["timestamp"], states[-1] if states else None
        if before is not None and before["type"] == "RUNNING":
            run["total_run_time"] += _seconds_between(before["timestamp"], at)
        if state["type"] == "RUNNING":
            run["run_count"] += 1
        if state["type"] == "RUNNING" or state["type"] in FINAL:
            run["start_time"] = run["start_time"] or at
        run["end_time"] = at if state["type"] in FINAL else None
        run["expected_start_time"] = run["expected_start_time"] or at
        run.update(state=state, state_id=state["id"], state_type=state["type"], state_name=state["name"])
        run["updated"] = at
        states.append(state)


def _seconds_between(begin: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()


_UNBEGUN: Final[Object] = {
    "flow_version": None,
    "parameters": {},
    "idempotency_key": None,
    "parent_task_run_id": None,
    "deployment_id": None,
    "tags": [],
    "labels": {},
    "context": {},
    "empirical_policy": {},
    "run_count": 0,
    "total_run_time": 0.0,
    "start_time": None,
    "end_time": None,
    "expected_start_time": None,
}
