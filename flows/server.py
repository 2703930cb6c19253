"""A Prefect server of one workspace: found if it runs, started and stopped with us if it does not.

Or a recorder in its place (`flows.recorder`), for runs that nobody looks at meanwhile.
Imports nothing of Prefect, so that the server's start does not wait for our own imports.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from flows.child_process import python_path, start_child
from flows.database_url import asked_database, check_reachable
from flows.environment import (
    DATABASE_URL,
    LOOPBACK,
    logs_directory,
    prefect_environment,
    prefect_home,
    server_settings,
)
from flows.guard.hosts import free_port, reached_at
from flows.listeners import somebody_listens
from flows.raw_api import DIRECT
from flows.readiness import TELL_AFTER_S, WHOLE_FACTOR, ServerError, Service, await_ready, start_limit
from flows.secret import client_environment, server_environment, server_secret
from ltxcore.deadline import CALL_LIMIT_S, within
from ltxcore.variables import variables_set

STOP_LIMIT_S: Final = 8.0
RECORDER: Final = "flows.guard.recorder"
RECORDED: Final = {
    # A recorder is of our own version, and no page of another origin gets past its guard.
    "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
    "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "false",
}
"""Variables for flows that report to a recorder."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunningServer:
    """The content of `server.json`: the workspace's running server."""

    url: str
    pid: int
    records: bool = False
    """Whether it is a recorder, which knows its own runs only."""

    @property
    def ui(self) -> str:
        return self.url.removesuffix("/api")


def answers(url: str, limit_s: float = CALL_LIMIT_S) -> bool:
    """Whether a GET there is answered with status 200, all of the answer's head in time."""

    def ask() -> bool:
        with DIRECT.open(url, timeout=limit_s) as answer:
            return bool(answer.status == 200)

    try:
        return within(limit_s, f"asking {url}", ask)
    except (OSError, ValueError, http.client.HTTPException):
        return False


def healthy(api_url: str, limit_s: float = CALL_LIMIT_S) -> bool:
    """Whether a Prefect API answers there."""
    return answers(f"{api_url}/health", limit_s)


def find_server(workspace: str | Path) -> RunningServer | None:
    """The live server of this workspace, or None. A damaged record is ignored, and so is a recorder."""
    server = _find(workspace)
    return None if server is None or server.records else server


def _find(workspace: str | Path) -> RunningServer | None:
    server = _read_record(prefect_home(workspace) / "server.json")
    if server is None:
        return None
    try:
        os.kill(server.pid, 0)
    except (ProcessLookupError, PermissionError, OverflowError):
        # Gone, and its number may be another user's by now; who may not signal it has no secret of it either.
        return None
    return server if healthy(server.url) else None


def _read_record(path: Path) -> RunningServer | None:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        text = ""
    try:
        record = json.loads(text)
        url, pid, records = record["url"], record["pid"], record.get("records", False)
    except (ValueError, KeyError, TypeError, AttributeError):
        url = pid = records = None
    if not isinstance(url, str) or not isinstance(pid, int) or isinstance(pid, bool) or pid <= 0:
        log.warning("%s is damaged, as a power cut leaves it; it is ignored, and written anew", path)
        return None
    return RunningServer(url, pid, bool(records))


class LocalServer:
    """Context manager: a Prefect API for this workspace.

    In order: the server that `PREFECT_API_URL` names, the one that already runs for this workspace, one
    of our own; with `own` only the last. A server of our own dies with us, also when we are killed. One
    database has one server: the server process itself holds the lock on `server.lock`.

    `environment` holds what a child process needs to reach it. Inside the block `os.environ` has it too.
    `tell` is given a line when the start takes long. `database` is an address that `asked_database` gave; a
    server of our own keeps its runs there. Empty: as the environment says, or in the workspace.
    With `records` our own is a recorder, unless somebody listens: the next server takes up what it was told.
    """

    def __init__(
        self,
        workspace: str | Path,
        *,
        host: str = LOOPBACK,
        port: int | None = None,
        ui: bool = False,
        own: bool = False,
        records: bool = False,
        database: str = "",
        tell: Callable[[str], None] = log.warning,
    ) -> None:
        self.workspace = Path(workspace).resolve()
        self.host = host
        self.port = port
        self.ui = ui
        self.own = own
        self.records = records
        self.database = database
        self.tell = tell
        self.url = ""
        self.started_here = False
        self._is_ours = False
        self._is_recorder = False
        self._process: subprocess.Popen[bytes] | None = None
        self._stack = contextlib.ExitStack()

    @property
    def environment(self) -> dict[str, str]:
        secret = client_environment(prefect_home(self.workspace)) if self._is_ours else {}
        recorded = RECORDED if self._is_recorder else {}
        return {**prefect_environment(self.workspace), **recorded, **secret, "PREFECT_API_URL": self.url}

    @property
    def log_path(self) -> Path:
        return logs_directory(self.workspace) / "server.log"

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The server process, if we started it."""
        return self._process

    def __enter__(self) -> Self:
        prefect_home(self.workspace).mkdir(parents=True, exist_ok=True, mode=0o700)
        logs_directory(self.workspace).mkdir(parents=True, exist_ok=True)
        try:
            self.url = self._foreign_url() or self._found_or_started()
            found = _find(self.workspace)
            self._is_ours = self.started_here or (found is not None and found.url == self.url)
            self._is_recorder = self._is_ours and found is not None and found.records
            self._stack.enter_context(_environment(self.environment))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if "prefect" in sys.modules:
                _send_what_is_queued()
        finally:
            self._stack.close()

    def _foreign_url(self) -> str | None:
        url = None if self.own else os.environ.get("PREFECT_API_URL")
        if not url:
            return None
        if not healthy(url.rstrip("/")):
            raise ServerError(
                f"PREFECT_API_URL is {url}, but no Prefect API answers there. "
                "Start that server, or unset PREFECT_API_URL to use one of the workspace's own."
            )
        return url.rstrip("/")

    def _found_or_started(self) -> str:
        begin = time.monotonic()
        tell_at = begin + TELL_AFTER_S
        limit = start_limit()
        while (lock := _try_lock(prefect_home(self.workspace) / "server.lock")) is None:
            if self.own:
                raise self._in_use()
            with contextlib.ExitStack() as use:
                # First the claim, then the look: its owner may be about to stop it.
                use.enter_context(_shared_use(self.workspace))
                if (server := _find(self.workspace)) is not None:
                    if server.records and not self.records:
                        raise self._in_use()
                    self._stack.push(use.pop_all())
                    return server.url
            now = time.monotonic()
            # Its owner gives it up where it stands still; this is for an owner that does nothing at all.
            if now > begin + WHOLE_FACTOR * limit:
                raise ServerError(
                    f"Another process holds {prefect_home(self.workspace) / 'server.lock'}, but its server "
                    f"has not answered for {now - begin:.0f} s. See {self.log_path}."
                )
            if now > tell_at:
                self.tell(
                    f"waiting for the Prefect server that another process starts. Its log: {self.log_path}"
                )
                tell_at = now + 60
            time.sleep(0.2)
        with lock:
            return self._start(lock)

    def _in_use(self) -> ServerError:
        return ServerError(
            f"A run is using the Prefect database of {self.workspace} just now. Try again when it is over."
        )

    def _start(self, lock: IO[bytes]) -> str:
        home = prefect_home(self.workspace)
        port = self.port or free_port(self.host)
        url = f"http://{reached_at(self.host)}:{port}/api"
        record = home / "server.json"
        record.unlink(missing_ok=True)
        database = self.database or asked_database()
        check_reachable(database)
        records = self.records and not database and not somebody_listens(home)
        environment = server_environment(
            server_secret(home),
            {
                **os.environ,
                **prefect_environment(self.workspace),
                **({DATABASE_URL: database} if database else {}),
                **server_settings(url),
                "PREFECT_API_URL": url,
                "PREFECT_SERVER_UI_ENABLED": str(self.ui).lower(),
                "PYTHONPATH": python_path(),
            },
        )
        module = RECORDER if records else "flows.guard.prefect_server"
        command = [sys.executable, "-m", module, self.host, str(port)]
        with self.log_path.open("ab") as file:
            process = start_child(
                command,
                environment,
                log=file,
                cwd=self.workspace,
                death_signal=signal.SIGKILL,
                keep_open=[lock.fileno()],
            )
        self._process = process
        self._stack.callback(self._stop, process, record)
        name = "recorder" if records else "Prefect server"
        service = Service(f"The {name}", process, self.log_path)
        await_ready(f"the {name}", lambda: healthy(url), [service], self.tell)
        _write_record(record, RunningServer(url, process.pid, records))
        self.started_here = True
        return url

    def _stop(self, process: subprocess.Popen[bytes], record: Path) -> None:
        with _sole_use(self.workspace):
            record.unlink(missing_ok=True)
            stop(process, STOP_LIMIT_S)


def stop(process: subprocess.Popen[bytes], limit_s: float) -> None:
    """SIGTERM, then SIGKILL after `limit_s`; to the whole session of the child."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _write_record(path: Path, server: RunningServer) -> None:
    partial = path.with_suffix(".json.tmp")
    partial.write_text(json.dumps(asdict(server)))
    partial.replace(path)


def _try_lock(path: Path) -> IO[bytes] | None:
    handle = path.open("ab")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        return None
    return handle


@contextlib.contextmanager
def _shared_use(workspace: Path) -> Iterator[None]:
    """Held by every process that uses a server which another one will stop."""
    with (prefect_home(workspace) / "users.lock").open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield


@contextlib.contextmanager
def _sole_use(workspace: Path) -> Iterator[None]:
    """Waits until no other process uses our server any more."""
    with (prefect_home(workspace) / "users.lock").open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set in `os.environ`, and in Prefect's settings where Prefect has been imported already."""
    with variables_set(variables), contextlib.ExitStack() as stack:
        if "prefect" in sys.modules:
            stack.enter_context(_fresh_settings())
        yield


def _send_what_is_queued() -> None:
    """Our last log lines and events: left over, Prefect would try for a minute to send them to nobody."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogHandler

    APILogHandler().flush()
    EventsWorker.drain_all(timeout=5, at_exit=False)


@contextlib.contextmanager
def _fresh_settings() -> Iterator[None]:
    from prefect.context import SettingsContext, get_settings_context
    from prefect.settings.models.root import Settings

    with SettingsContext(profile=get_settings_context().profile, settings=Settings()):
        yield
