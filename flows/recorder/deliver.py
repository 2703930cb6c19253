"""Take up what recorders have written: runs, task runs, logs and artifacts go into Prefect's database.

The server does it when it starts, before it answers anybody, and from then on every few seconds. A journal is
taken up in one transaction, with the times that its runs had. What was taken up already, by a server that
was then killed, is known by its flow runs and passed over.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from prefect.server import models, schemas
from prefect.server.database import provide_database_interface
from prefect.server.database.interface import PrefectDBInterface
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.server.services.task_run_recorder import record_bulk_task_run_events
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from flows.recorder import journal
from flows.recorder.records import Object, Records

log = logging.getLogger(__name__)
EVENTS_AT_ONCE: Final = 200
LOOK_EVERY_S: Final = 5.0


async def take_up(home: Path) -> None:
    """Take up every journal of a PREFECT_HOME whose recorder has ended.

    One that a power cut has made unreadable is put aside and logged, so that the server starts all the same.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: the database takes nothing just now; the journal stays.
    """
    for file in journal.waiting(home):
        with journal.over(file) as is_over:
            if is_over:
                await _take_up_one(file)


async def _take_up_one(file: Path) -> None:
    try:
        records = Records.of(journal.read(file))
        records.end_dead()
        await _write(records)
    except (LookupError, ValueError, IntegrityError):
        aside = file.with_suffix(".damaged")
        file.rename(aside)
        log.exception("the runs of %s cannot be taken up; it is kept as %s", file, aside)
    else:
        file.unlink()


async def keep_taking_up(home: Path) -> None:
    """Take up what ends while the server runs, such as a run that had nothing to do."""
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        try:
            await take_up(home)
        except SQLAlchemyError:
            log.exception("recorded runs could not be taken up; trying again soon")


async def _write(records: Records) -> None:
    db = provide_database_interface()
    async with db.session_context(begin_transaction=True) as session:
        known = sa.select(sa.func.count()).where(db.FlowRun.id.in_([UUID(run) for run in records.flow_runs]))
        if not await session.scalar(known):
            await _write_runs(db, session, records)
    # In the order of their times: a later state of a task run replaces an earlier one.
    events = [ReceivedEvent.model_validate(event) for event in records.events]
    events.sort(key=lambda event: event.occurred)
    for first in range(0, len(events), EVENTS_AT_ONCE):
        await record_bulk_task_run_events(events[first : first + EVENTS_AT_ONCE])


async def _write_runs(db: PrefectDBInterface, session: AsyncSession, records: Records) -> None:
    flows = {}
    for flow in records.flows.values():
        # Known by its name, whoever made it first.
        made = await models.flows.create_flow(session, flow=schemas.core.Flow(name=flow["name"]))  # type: ignore[attr-defined]
        flows[flow["id"]] = made.id
    children = {run["parent_task_run_id"]: run for run in records.flow_runs.values()}
    # A run stands in its parent's placeholder, and that in the parent: parents were made first.
    made_at = [(run["created"], "flow run", run) for run in records.flow_runs.values()]
    made_at += [(run["created"], "task run", run) for run in records.task_runs.values()]
    for _, kind, run in sorted(made_at, key=lambda item: item[0]):
        if kind == "flow run":
            await _write_flow_run(db, session, run, flows[run["flow_id"]], records.states[run["id"]])
        else:
            child = children.get(run["id"])
            await _write_placeholder(db, session, run, child, records.states[child["id"]] if child else [])
    if records.logs:
        logs = [schemas.actions.LogCreate.model_validate(line) for line in records.logs]
        for batch in models.logs.split_logs_into_batches(logs):
            await models.logs.create_logs(session, logs=batch)  # type: ignore[attr-defined]
    for artifact in records.artifacts.values():
        await _write_artifact(db, session, artifact)


async def _write_flow_run(
    db: PrefectDBInterface, session: AsyncSession, run: Object, flow: UUID, states: list[Object]
) -> None:
    plain = ("name", "flow_version", "parameters", "idempotency_key", "tags", "labels", "context")
    parent = run["parent_task_run_id"]
    made = db.FlowRun(
        id=UUID(run["id"]),
        flow_id=flow,
        parent_task_run_id=None if parent is None else UUID(parent),
        empirical_policy=schemas.core.FlowRunPolicy.model_validate(run["empirical_policy"]),
        **{name: run[name] for name in plain},
        **_course(run),
    )
    session.add(made)
    await session.flush()
    kept = [db.FlowRunState(flow_run_id=made.id, **_state(state)) for state in states]
    session.add_all(kept)
    await session.flush()
    made.set_state(kept[-1])
    await session.flush()


async def _write_placeholder(
    db: PrefectDBInterface, session: AsyncSession, run: Object, child: Object | None, states: list[Object]
) -> None:
    """The task run that stands for a child run in its parent's timeline, with the states of the child."""
    plain = ("name", "task_key", "dynamic_key")
    course = {"state_type": run["state"]["type"], "state_name": run["state"]["name"]}
    made = db.TaskRun(
        id=UUID(run["id"]),
        flow_run_id=UUID(run["flow_run_id"]),
        created=_time(run["created"]),
        **{name: run[name] for name in plain},
        **(
            course
            if child is None
            else {key: value for key, value in _course(child).items() if key != "created"}
        ),
    )
    session.add(made)
    await session.flush()
    if child is None:
        return
    kept = []
    for state in states:
        copied = {key: value for key, value in _state(state).items() if key != "id"}
        details = copied["state_details"].model_copy(update={"child_flow_run_id": UUID(child["id"])})
        kept.append(db.TaskRunState(task_run_id=made.id, **{**copied, "state_details": details}))
    session.add_all(kept)
    await session.flush()
    made.set_state(kept[-1])
    await session.flush()


def _course(run: Object) -> dict[str, Any]:
    """How a run went, as columns."""
    moments = ("created", "start_time", "end_time", "expected_start_time")
    return {
        **{name: _time(run[name]) for name in moments},
        "run_count": run["run_count"],
        "total_run_time": timedelta(seconds=run["total_run_time"]),
        "state_type": run["state_type"],
        "state_name": run["state_name"],
        "state_timestamp": _time(run["state"]["timestamp"]),
    }


def _state(state: Object) -> dict[str, Any]:
    return {
        "id": UUID(state["id"]),
        "type": state["type"],
        "name": state["name"],
        "message": state["message"],
        "timestamp": _time(state["timestamp"]),
        "state_details": schemas.states.StateDetails.model_validate(state["state_details"]),
        "_data": state["data"],
    }


async def _write_artifact(db: PrefectDBInterface, session: AsyncSession, artifact: Object) -> None:
    given = {name: value for name, value in artifact.items() if name not in ("created", "updated")}
    await models.artifacts.create_artifact(session, artifact=schemas.core.Artifact.model_validate(given))
    when = {name: _time(artifact[name]) for name in ("created", "updated")}
    identity = UUID(artifact["id"])
    await session.execute(sa.update(db.Artifact).where(db.Artifact.id == identity).values(**when))


def _time(written: str | None) -> datetime | None:
    return None if written is None else datetime.fromisoformat(written)
