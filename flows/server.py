"""A Prefect server of one workspace: found if it runs, started and stopped with us if it does not.

Imports nothing of Prefect, so that the server's start does not wait for our own imports.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from flows.environment import LOOPBACK, logs_directory, prefect_environment, prefect_home
from flows.leash import describe_exit, start_leashed
from flows.leftovers import DIRECT, close_leftovers

START_LIMIT_S: Final = 90.0
STOP_LIMIT_S: Final = 8.0


class ServerError(RuntimeError):
    """The Prefect server cannot be started or reached; the text says why and what to do."""


@dataclass(frozen=True)
class RunningServer:
    """What `server.json` in the workspace says of the server that runs."""

    url: str
    pid: int

    @property
    def ui(self) -> str:
        return self.url.removesuffix("/api")


def answers(url: str, limit_s: float = 2.0) -> bool:
    """Whether a GET there is answered with status 200."""
    try:
        with DIRECT.open(url, timeout=limit_s) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


def healthy(api_url: str, limit_s: float = 2.0) -> bool:
    """Whether a Prefect API answers there."""
    return answers(f"{api_url}/health", limit_s)


def find_server(workspace: str | Path) -> RunningServer | None:
    """The live server of this workspace, or None."""
    try:
        record = json.loads((prefect_home(workspace) / "server.json").read_text())
        server = RunningServer(url=record["url"], pid=record["pid"])
    except (FileNotFoundError, ValueError, KeyError):
        return None
    try:
        os.kill(server.pid, 0)
    except ProcessLookupError:
        return None
    return server if healthy(server.url) else None


def free_port() -> int:
    """A TCP port on the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


class LocalServer:
    """Context manager: a Prefect API for this workspace.

    In order: the server that `PREFECT_API_URL` names, the one that already runs for this workspace, one
    of our own; with `own` only the last. A server of our own dies with us, also when we are killed. One
    database has one server: the server process itself holds the lock on `server.lock`.

    `environment` holds what a child process needs to reach it. Inside the block `os.environ` has it too.
    """

    def __init__(
        self,
        workspace: str | Path,
        *,
        host: str = LOOPBACK,
        port: int | None = None,
        ui: bool = False,
        own: bool = False,
    ) -> None:
        self.workspace = Path(workspace).resolve()
        self.host = host
        self.port = port
        self.ui = ui
        self.own = own
        self.url = ""
        self.started_here = False
        self._process: subprocess.Popen[bytes] | None = None
        self._stack = contextlib.ExitStack()

    @property
    def environment(self) -> dict[str, str]:
        return {**prefect_environment(self.workspace), "PREFECT_API_URL": self.url}

    @property
    def log_path(self) -> Path:
        return logs_directory(self.workspace) / "server.log"

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The server process, if we started it."""
        return self._process

    def __enter__(self) -> Self:
        prefect_home(self.workspace).mkdir(parents=True, exist_ok=True)
        logs_directory(self.workspace).mkdir(parents=True, exist_ok=True)
        try:
            self.url = self._foreign_url() or self._found_or_started()
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
        if not healthy(url.rstrip("/"), limit_s=10):
            raise ServerError(
                f"PREFECT_API_URL is {url}, but no Prefect API answers there. "
                "Start that server, or unset PREFECT_API_URL to use one of the workspace's own."
            )
        return url.rstrip("/")

    def _found_or_started(self) -> str:
        deadline = time.monotonic() + START_LIMIT_S
        while (lock := _try_lock(prefect_home(self.workspace) / "server.lock")) is None:
            if self.own:
                raise ServerError(
                    f"A run is using the Prefect database of {self.workspace} just now. "
                    "Try again when it is over."
                )
            with contextlib.ExitStack() as use:
                # First the claim, then the look: its owner may be about to stop it.
                use.enter_context(_shared_use(self.workspace))
                if (server := find_server(self.workspace)) is not None:
                    self._stack.push(use.pop_all())
                    return server.url
            if time.monotonic() > deadline:
                raise ServerError(
                    f"Another process holds {prefect_home(self.workspace) / 'server.lock'}, but its server "
                    f"has not answered for {START_LIMIT_S:.0f} s. See {self.log_path}."
                )
            time.sleep(0.2)
        with lock:
            return self._start(lock)

    def _start(self, lock: IO[bytes]) -> str:
        port = self.port or free_port()
        reached = LOOPBACK if self.host == "0.0.0.0" else self.host  # noqa: S104 - compared, not bound
        url = f"http://{reached}:{port}/api"
        record = prefect_home(self.workspace) / "server.json"
        record.unlink(missing_ok=True)
        environment = {
            **os.environ,
            **prefect_environment(self.workspace),
            "PREFECT_API_URL": url,
            "PREFECT_SERVER_UI_ENABLED": str(self.ui).lower(),
        }
        command = [
            sys.executable,
            "-m",
            "prefect",
            "server",
            "start",
            "--host",
            LOOPBACK,
            "--port",
            str(port),
        ]
        with self.log_path.open("ab") as log:
            process = start_leashed(
                command,
                environment,
                log=log,
                cwd=self.workspace,
                death_signal=signal.SIGKILL,
                keep_open=[lock.fileno()],
            )
        self._process = process
        self._stack.callback(self._stop, process, record)
        self._wait_until_healthy(process, url)
        close_leftovers(url, self.workspace)
        _write_record(record, RunningServer(url, process.pid))
        self.started_here = True
        return url

    def _wait_until_healthy(self, process: subprocess.Popen[bytes], url: str) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while not healthy(url):
            code = process.poll()
            if code is not None:
                raise ServerError(f"The Prefect server {describe_exit(code)}.\n{self._log_tail()}")
            if time.monotonic() > deadline:
                raise ServerError(
                    f"The Prefect server at {url} has not answered for {START_LIMIT_S:.0f} s.\n"
                    f"{self._log_tail()}"
                )
            time.sleep(0.05)

    def _log_tail(self, lines: int = 15) -> str:
        text = self.log_path.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join([f"The end of {self.log_path}:", *text])

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
    partial.write_text(json.dumps({"url": server.url, "pid": server.pid}))
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
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        with contextlib.ExitStack() as stack:
            if "prefect" in sys.modules:
                stack.enter_context(_fresh_settings())
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


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
