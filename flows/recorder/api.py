"""The part of Prefect's API that flows without a deployment ask, answered from a journal.

What it is not made for is refused with status 501, and named in its log.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from flows.recorder.journal import Entry, Journal
from flows.recorder.records import FINAL, TASK_RUN, Object, Records, new_object, new_state, now
from flows.recorder.slots import Slots

log = logging.getLogger(__name__)
RETRY_AFTER_S: Final = "1"
NOTHING: Final = 204
CREATED: Final = 201


class Recorder:
    """An ASGI application that records runs."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._records = Records()
        self._slots = Slots()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._take_events(WebSocket(scope, receive, send))
        elif scope["type"] == "http":
            request = Request(scope, receive)
            answer: ASGIApp = self._answer(request.method, scope["path"], await request.body())
            await answer(scope, receive, send)
        else:
            await _live(receive, send)

    def _answer(self, method: str, path: str, body: bytes) -> Response:
        for wanted, pattern, answer in ROUTES:
            found = pattern.fullmatch(path.removeprefix("/api"))
            if wanted == method and found:
                return answer(self, json.loads(body) if body else {}, *found.groups())
        log.error("%s %s is nothing that a recorder answers", method, path)
        message = "This run is recorded without a Prefect server; `ltx2 serve` starts one when it is over"
        return JSONResponse({"detail": message}, 501)

    async def _take_events(self, socket: WebSocket) -> None:
        await socket.accept(subprotocol="prefect")
        # The guard has seen the secret already.
        await socket.receive_text()
        await socket.send_json({"type": "auth_success"})
        try:
            while True:
                self._note_event(json.loads(await socket.receive_text()))
        except WebSocketDisconnect:
            return

    def _write(self, what: str, content: Any, of: str | None = None, *, lasting: bool = False) -> None:
        entry: Entry = (
            {"what": what, "told": content} if of is None else {"what": what, "of": of, "told": content}
        )
        self._journal.write(entry, lasting=lasting)
        self._records.apply(entry)

    def _note_event(self, event: Object) -> None:
        if str(event.get("event", "")).startswith(TASK_RUN):
            self._write("event", event)

    # --- what is asked ---

    def _health(self, body: Object) -> Response:
        return JSONResponse(True)

    def _version(self, body: Object) -> Response:
        return JSONResponse(version("prefect"))

    def _result_storage(self, body: Object) -> Response:
        return JSONResponse({"default_result_storage_block_id": None})

    def _make_flow(self, body: Object) -> Response:
        known = self._records.flow_named(body["name"])
        if known is None:
            known = new_object({"tags": [], "labels": {}, **body}, now())
            self._write("flow", known)
        return JSONResponse(known, CREATED)

    def _read_flow(self, body: Object, flow: str) -> Response:
        return _found(self._records.flows.get(flow))

    def _make_flow_run(self, body: Object) -> Response:
        known = self._records.run_of_key(body["flow_id"], body.get("idempotency_key"))
        if known is not None:
            return JSONResponse(known)
        made = new_object({name: value for name, value in body.items() if name != "state"}, now())
        if not made.get("name"):
            made["name"] = f"{self._records.flows[body['flow_id']]['name']}-{made['id'][:8]}"
        self._write("flow run", made)
        self._enter(made["id"], body.get("state") or {"type": "PENDING"})
        return JSONResponse(self._records.flow_runs[made["id"]], CREATED)

    def _read_flow_run(self, body: Object, run: str) -> Response:
        return _found(self._records.flow_runs.get(run))

    def _change_flow_run(self, body: Object, run: str) -> Response:
        self._write("flow run changed", body, run)
        return Response(status_code=NOTHING)

    def _set_state(self, body: Object, run: str) -> Response:
        if run not in self._records.flow_runs:
            return _found(None)
        state = self._enter(run, body["state"])
        return JSONResponse({"state": state, "status": "ACCEPT", "details": {"type": "accept_details"}})

    def _enter(self, run: str, given: Object) -> Object:
        state = new_state(given, self._records.next_moment(run))
        is_over = state["type"] in FINAL
        self._write("state", state, run, lasting=is_over)
        if is_over:
            self._slots.end_of(run)
        return state

    def _make_task_run(self, body: Object) -> Response:
        same = ("flow_run_id", "task_key", "dynamic_key")
        for known in self._records.task_runs.values():
            if all(known[name] == body[name] for name in same):
                return JSONResponse(known)
        at = now()
        made = new_object({**body, "state": new_state(body.get("state") or {"type": "PENDING"}, at)}, at)
        self._write("task run", made)
        return JSONResponse(made, CREATED)

    def _take_logs(self, body: list[Object]) -> Response:
        self._write("logs", body)
        return Response(status_code=CREATED)

    def _take_posted_events(self, body: list[Object]) -> Response:
        for event in body:
            self._note_event(event)
        return Response(status_code=NOTHING)

    def _make_artifact(self, body: Object) -> Response:
        made = new_object(body, now())
        self._write("artifact", made)
        return JSONResponse(made, CREATED)

    def _change_artifact(self, body: Object, artifact: str) -> Response:
        if artifact not in self._records.artifacts:
            return _found(None)
        self._write("artifact changed", {**body, "updated": now()}, artifact)
        return Response(status_code=NOTHING)

    def _make_limit(self, body: Object) -> Response:
        made = self._slots.make(body["name"], body["limit"], now())
        return JSONResponse({**made, "active_slots": 0}, CREATED)

    def _read_limit(self, body: Object, name: str) -> Response:
        return _found(self._slots.find(name))

    def _take_slots(self, body: Object) -> Response:
        # A stage takes one limit at a time: the GPU's.
        (name,) = body["names"]
        limit = self._slots.find(name)
        if limit is None:
            return _found(None)
        holder = body.get("holder") or {}
        lease = self._slots.take(name, body["slots"], holder.get("id"), body.get("lease_duration", 300.0))
        if lease is None:
            return Response(status_code=423, headers={"Retry-After": RETRY_AFTER_S})
        named = {key: limit[key] for key in ("id", "name", "limit")}
        return JSONResponse({"lease_id": lease, "limits": [named]})

    def _renew_lease(self, body: Object, lease: str) -> Response:
        held = self._slots.renew(lease, body.get("lease_duration", 300.0))
        return Response(status_code=NOTHING) if held else JSONResponse({"detail": "It has ended"}, 410)

    def _give_back(self, body: Object) -> Response:
        self._slots.give_back(body["lease_id"])
        return Response(status_code=NOTHING)


def _found(known: Object | None) -> Response:
    return JSONResponse({"detail": "There is none"}, 404) if known is None else JSONResponse(known)


async def _live(receive: Receive, send: Send) -> None:
    """ASGI's lifespan: there is nothing to prepare, and nothing to close."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


Answer = Callable[..., Response]
ROUTES: Final[tuple[tuple[str, re.Pattern[str], Answer], ...]] = tuple(
    (method, re.compile(path.replace("ID", "([^/]+)")), answer)
    for method, path, answer in (
        ("GET", "/health", Recorder._health),
        ("GET", "/admin/version", Recorder._version),
        ("GET", "/admin/storage", Recorder._result_storage),
        ("POST", "/flows/", Recorder._make_flow),
        ("GET", "/flows/ID", Recorder._read_flow),
        ("POST", "/flow_runs/", Recorder._make_flow_run),
        ("GET", "/flow_runs/ID", Recorder._read_flow_run),
        ("PATCH", "/flow_runs/ID", Recorder._change_flow_run),
        ("POST", "/flow_runs/ID/set_state", Recorder._set_state),
        ("POST", "/task_runs/", Recorder._make_task_run),
        ("POST", "/logs/", Recorder._take_logs),
        ("POST", "/events", Recorder._take_posted_events),
        ("POST", "/artifacts/", Recorder._make_artifact),
        ("PATCH", "/artifacts/ID", Recorder._change_artifact),
        ("POST", "/v2/concurrency_limits/", Recorder._make_limit),
        ("GET", "/v2/concurrency_limits/ID", Recorder._read_limit),
        ("POST", "/v2/concurrency_limits/increment-with-lease", Recorder._take_slots),
        ("POST", "/v2/concurrency_limits/decrement-with-lease", Recorder._give_back),
        ("POST", "/v2/concurrency_limits/leases/ID/renew", Recorder._renew_lease),
    )
)
