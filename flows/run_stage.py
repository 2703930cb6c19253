"""Run one stage as a child flow run in a process of its own, and raise if it does not complete.

Deployed (the parent run has a deployment): the stage's deployment, in a worker. Embedded: Prefect's engine
in a child process. In both the child is found again by its idempotency key, so a retried parent passes over
what is completed, waits for what still runs, and starts what failed once more, in a new process.
"""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, cast
from uuid import UUID

import httpx
from prefect import Flow, Task, get_client, runtime
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import FlowRunCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterIdempotencyKey
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.deployments import run_deployment
from prefect.exceptions import Pause
from prefect.logging import get_run_logger
from prefect.settings import get_current_settings
from prefect.states import Crashed, Pending, Scheduled, to_state_create
from pydantic import SecretStr

from flows.child_process import describe_exit, python_path, start_child
from flows.environment import logs_directory
from flows.forked_stage import ForkedStage, fork_stage
from flows.leftovers import give_back_leases
from flows.raw_api import over_http
from ltxcore.pipeline.base.contract import BY_NAME, PROBE
from ltxcore.store.fingerprint import fingerprint

POLL_S: Final = 1.0
GRACE_S: Final = 30.0  # What Prefect's worker gives a cancelled run, too.
OUTAGE_LIMIT_S: Final = 600.0
STAGE_PROCESS: Final = "flows.stage_process"
STOPPED_WITH_PARENT: Final = "Stopped with its parent run"


class StageFailed(RuntimeError):
    """A stage did not complete; the text has the stage's name and its own error."""


def stage_key(parent_run: str | UUID, stage: str, parameters: dict[str, Any], part: int = 0) -> str:
    """The idempotency key of a child run; `parameters` are plain JSON."""
    key = f"{parent_run}:{stage}:{fingerprint(parameters)}"
    return f"{key}:{part}" if part else key


def run_stage(
    flow: Flow[..., Any],
    parameters: dict[str, Any],
    *,
    retries: int = 0,
    again: Callable[[], str | None] = lambda: None,
    part: int = 0,
) -> FlowRun:
    """Run a stage to its end, as a child of the flow run that calls this, and return the child.

    A failed or crashed stage is started again up to `retries` times, each time in a new process: a retry
    inside the old one would inherit whatever memory leaked. Beyond these it is started again for as long as
    `again`, asked after each failure, gives a reason for it. Any interruption of the parent, a cancellation
    among them, is passed on to the child. A stage that is run in several parts with the same parameters has a
    run for each. Call it in the main thread.

    Raises:
        StageFailed: the child ended in any state but Completed.
        Pause: the parent was suspended, or paused; the stage is not started.
    """
    parent_run = runtime.flow_run.id
    if parent_run is None:
        raise RuntimeError(f"run_stage({flow.name!r}) was called outside a flow run")
    plain = flow.serialize_parameters(parameters)
    key = stage_key(parent_run, flow.name, plain, part)
    run_once = _run_deployed if runtime.deployment.id else _run_embedded
    while True:
        run = run_once(flow, plain, key)
        if _state(run).is_completed():
            return run
        reason = again()
        if reason is None:
            if retries == 0:
                raise StageFailed(f"Stage {flow.name} {_last_words(run)}")
            retries -= 1
        message = f"{_last_words(run)}; {reason or 'it is started again'}"
        get_run_logger().warning("Stage %s %s", flow.name, message)


def _state(run: FlowRun) -> State[Any]:
    if run.state is None:
        raise RuntimeError(f"the flow run {run.id} has no state")
    return run.state


def _last_words(run: FlowRun) -> str:
    state = _state(run)
    message = (state.message or "no message").removeprefix("Flow run encountered an exception: ")
    return f"{state.name.lower() if state.name else state.type.value.lower()}: {message} (run {run.name!r})"


# --- deployed: the stage's deployment, picked up by a worker ---


def _obey_suspension() -> None:
    """End this process where the parent is suspended; Prefect itself looks only before a task of its own.

    Only the run of a deployment can be: another one could not be started again.
    """
    with get_client(sync_client=True) as client:
        state = _state(client.read_flow_run(UUID(str(runtime.flow_run.id))))
    if state.is_paused():
        raise Pause(state=state)


def _run_deployed(flow: Flow[..., Any], plain: dict[str, Any], key: str) -> FlowRun:
    _obey_suspension()
    with _cancelled_with_us(key), get_client(sync_client=True) as client:
        created = run_deployment(
            f"{flow.name}/{flow.name}", parameters=plain, idempotency_key=key, timeout=0, as_subflow=True
        )
        # The run may be an old one: this parent is being retried.
        run = client.read_flow_run(cast(FlowRun, created).id)
        if _state(run).is_cancelling():
            run = _wait(client, run.id)
        if _state(run).is_final() and not _state(run).is_completed():
            _set_state(
                client, run, Scheduled(name="AwaitingRetry", message="Started again by its parent run")
            )
        return _wait(client, run.id)


def _wait(client: SyncPrefectClient, run_id: UUID) -> FlowRun:
    """Poll until the run is final; the server may be away for a while."""
    last_answer = time.monotonic()
    while True:
        try:
            run = client.read_flow_run(run_id)
        except httpx.TransportError as error:
            if time.monotonic() - last_answer > OUTAGE_LIMIT_S:
                raise
            get_run_logger().warning("The Prefect server does not answer (%r); waiting for it", error)
        else:
            last_answer = time.monotonic()
            if _state(run).is_final():
                return run
        time.sleep(POLL_S)


@contextmanager
def _cancelled_with_us(key: str) -> Iterator[None]:
    """Cancel the child of this key when the parent is interrupted, be it while the child is being created.

    CANCELLING, never CANCELLED: the worker then ends the process, and sets the state that is true.
    """
    try:
        yield
    except BaseException:
        # A client of its own: the interruption may have struck in the middle of a request.
        with get_client(sync_client=True) as client:
            found = client.read_flow_runs(
                flow_run_filter=FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=[key]))
            )
            for run in found:
                if not _state(run).is_final() and not _state(run).is_cancelling():
                    state = State(type=StateType.CANCELLING, name="Cancelling", message=STOPPED_WITH_PARENT)
                    client.set_flow_run_state(run.id, state)
        raise


def _set_state(client: SyncPrefectClient, run: FlowRun, state: State[Any], force: bool = False) -> None:
    answer = client.set_flow_run_state(run.id, state, force=force)
    if answer.status != SetStateStatus.ACCEPT:
        reason = getattr(answer.details, "reason", None)
        raise StageFailed(f"Prefect refused to set the run {run.name!r} to {state.name}: {reason}")


# --- embedded: Prefect's engine in a child process of ours ---


def _run_embedded(flow: Flow[..., Any], plain: dict[str, Any], key: str) -> FlowRun:
    with get_client(sync_client=True) as client:
        run = _create_embedded(client, flow, plain, key)
        if _state(run).is_completed():
            return run
        if not _state(run).is_pending():
            # A child of an earlier try of this parent. It cannot be alive: it ended with that parent.
            _set_state(client, run, Pending(name="AwaitingRetry"), force=True)
        try:
            code = _run_process(flow, plain, run)
        except BaseException:
            _crash_if_unreported(client, run.id, STOPPED_WITH_PARENT)
            raise
        settings = get_current_settings()
        given = settings.api.auth_string
        secret = given.get_secret_value() if isinstance(given, SecretStr) else given
        api = over_http(secret, str(client.api_url).rstrip("/"))
        give_back_leases(api, settings.home, [str(run.id)])
        _crash_if_unreported(client, run.id, f"its process {describe_exit(code)} before it could report")
        return client.read_flow_run(run.id)


def _crash_if_unreported(client: SyncPrefectClient, run_id: UUID, message: str) -> None:
    """Only the parent notices that an embedded child died; without this its page would say Running for
    ever."""
    run = client.read_flow_run(run_id)
    if not _state(run).is_final():
        _set_state(client, run, Crashed(message=message), force=True)


def _create_embedded(
    client: SyncPrefectClient, flow: Flow[..., Any], plain: dict[str, Any], key: str
) -> FlowRun:
    """The child run of this key, new or found, below a placeholder task in the parent's timeline."""
    parent_run = UUID(str(runtime.flow_run.id))
    task_run = client.create_task_run(
        task=Task(name=flow.name, fn=lambda: None), flow_run_id=parent_run, dynamic_key=key, state=Pending()
    )
    asked = FlowRunCreate(
        flow_id=client.create_flow_from_name(flow.name),
        flow_version=flow.version,
        parameters=plain,
        parent_task_run_id=task_run.id,
        idempotency_key=key,
        state=to_state_create(Pending()),
    )
    # The client's own create_flow_run takes no idempotency key.
    answer = client.request("POST", "/flow_runs/", json=asked.model_dump(mode="json", exclude_unset=True))
    return client.read_flow_run(UUID(answer.json()["id"]))


def _run_process(flow: Flow[..., Any], plain: dict[str, Any], run: FlowRun) -> int:
    """Run the child's engine in a process of its own and return how it ended.

    An interruption of ours goes to the child as SIGTERM; it then has 30 s to write a checkpoint.
    """
    environment = {
        **os.environ,
        **get_current_settings().to_environment_variables(exclude_unset=True),
        "PREFECT__FLOW_RUN_ID": str(run.id),
        "PREFECT__FLOW_ENTRYPOINT": _entrypoint(flow),
        "PYTHONPATH": python_path(),
    }
    with _stage_log(flow, plain, run) as log:
        process = _start(flow, environment, log)
        try:
            return process.wait()
        except BaseException:
            _end(process)
            raise


def _start(
    flow: Flow[..., Any], environment: dict[str, str], log: IO[bytes] | None
) -> subprocess.Popen[bytes] | ForkedStage:
    """The stage's process: forked with its libraries, or fresh where it needs none or cannot be forked."""
    computes = flow.name in BY_NAME and flow.name != PROBE.name
    forked = fork_stage(STAGE_PROCESS, environment, log, computes=computes)
    return forked or start_child([sys.executable, "-m", STAGE_PROCESS], environment, log=log)


def _entrypoint(flow: Flow[..., Any]) -> str:
    source = inspect.getsourcefile(flow.fn)
    if source is None:
        raise RuntimeError(f"the flow {flow.name!r} is in no file, so no other process can load it")
    return f"{Path(source).resolve()}:{flow.fn.__name__}"


@contextmanager
def _stage_log(flow: Flow[..., Any], plain: dict[str, Any], run: FlowRun) -> Iterator[IO[bytes] | None]:
    """The file that takes the child's console, so that it does not break into the parent's display."""
    if not plain.get("workspace"):
        yield None
        return
    path = logs_directory(plain["workspace"]) / f"{flow.name}-{str(run.id)[:8]}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as log:
        yield log


def _end(process: subprocess.Popen[bytes] | ForkedStage) -> None:
    """SIGTERM, up to 30 s for a checkpoint, then SIGKILL; a second Ctrl-C kills at once."""
    try:
        process.terminate()
        process.wait(GRACE_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
