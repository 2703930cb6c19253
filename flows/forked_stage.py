"""Stages forked from one process that has the large libraries imported, seen from the parent flow."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, Self

from flows.child_process import start_child
from flows.stage_server import ENVIRONMENT, HEADER, READY, serve_forked

logger = logging.getLogger(__name__)

OF_ONE_RUN: Final = "PREFECT__"
"""Variables of one flow run begin so; all others were read when the libraries were imported."""
GONE_S: Final = 30.0
"""Time for a stage to end by itself after its server is gone; the kernel has signalled it."""


class ForkedStage:
    """A forked stage, with the interface of `subprocess.Popen`."""

    def __init__(self, pid: int, lines: _Lines) -> None:
        self.pid, self._lines = pid, lines
        self._code: int | None = None

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        if self._code is None:
            self._code = self._ended(0.0)
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        if self._code is None:
            self._code = self._ended(timeout)
        if self._code is None:
            raise subprocess.TimeoutExpired(["stage"], timeout or 0.0)
        return self._code

    def terminate(self) -> None:
        """Ask the stage to end: SIGTERM, to it alone."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)

    def _ended(self, timeout: float | None) -> int | None:
        try:
            message = self._lines.next(timeout)
        except EOFError:
            return self._without_server()
        return None if message is None else int(message["status"])

    def _without_server(self) -> int:
        """The server was killed, and the kernel has sent the stage a SIGTERM: wait, then be sure."""
        deadline = time.monotonic() + GONE_S
        while time.monotonic() < deadline:
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                return -signal.SIGTERM
            time.sleep(0.1)
        os.killpg(self.pid, signal.SIGKILL)
        return -signal.SIGKILL


class _Lines:
    """Messages of the server, a line of JSON each."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._rest = sock, b""

    def next(self, timeout: float | None) -> dict[str, Any] | None:
        """The next message; None where none came in time.

        Raises:
            EOFError: the server is gone.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while b"\n" not in self._rest:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._sock], [], [], left)[0]:
                return None
            try:
                part = self._sock.recv(1 << 16)
            except ConnectionResetError:
                part = b""
            if not part:
                raise EOFError("the process that forks the stages is gone")
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message


class StageServer:
    """The process that forks; it ends with this one."""

    def __init__(self, sock: socket.socket, lives: Callable[[], bool]) -> None:
        self._sock, self._lines, self._lives = sock, _Lines(sock), lives
        self._environment: dict[str, str] | None = None
        self.ready = True

    @classmethod
    def spawned(cls, environment: Mapping[str, str]) -> Self:
        """A fresh process, with the libraries imported under an environment when this returns."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = start_child(
                [sys.executable, "-m", "flows.stage_server", str(theirs.fileno())],
                # A pool of threads in numpy would begin with the import.
                {**_lasting(environment), **ENVIRONMENT},
                keep_open=[theirs.fileno()],
            )
        server = cls(ours, lambda: process.poll() is None)
        server._environment = _lasting(environment)
        message = server._answer()
        server.ready = message is not None and message.get("state") == READY
        if not server.ready:
            logger.warning("stages are not forked, each imports for itself: see the lines above")
        return server

    @classmethod
    def forked(cls) -> Self:
        """A fork of this process, which has one thread and Prefect imported; the libraries come later."""
        ours, theirs = socket.socketpair()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            ours.close()
            serve_forked(theirs, parent)
        theirs.close()
        return cls(ours, partial(_lives, pid))

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Whether a stage with this environment would find the libraries imported under the same one."""
        same = self._environment is None or _lasting(environment) == self._environment
        return self.ready and same and self._lives()

    def start(
        self,
        module: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        log: IO[bytes] | None,
        *,
        computes: bool = True,
    ) -> ForkedStage | None:
        """Run a module as `python -m` would, forked; None where the server does not live any more.

        Args:
            computes: whether it needs the large libraries.
        """
        self._environment = _lasting(environment)
        request = {
            "module": module,
            "arguments": list(arguments),
            "environment": dict(environment),
            "directory": str(Path.cwd()),
            "computes": computes,
        }
        body = json.dumps(request).encode()
        try:
            socket.send_fds(self._sock, [HEADER.pack(len(body))], [] if log is None else [log.fileno()])
            self._sock.sendall(body)
        except (BrokenPipeError, ConnectionResetError):
            return None
        message = self._answer()
        return None if message is None or "pid" not in message else ForkedStage(message["pid"], self._lines)

    def _answer(self) -> dict[str, Any] | None:
        try:
            return self._lines.next(None)
        except EOFError:
            return None


def _lasting(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith(OF_ONE_RUN)}


def _lives(child: int) -> bool:
    try:
        return os.waitpid(child, os.WNOHANG) == (0, 0)
    except ChildProcessError:
        return False


_server: StageServer | None = None


def fork_server() -> None:
    """Fork the server from this process, before it has threads, so that the two share what is imported."""
    global _server
    if sys.platform == "linux":
        _server = StageServer.forked()


def fork_stage(
    module: str, environment: Mapping[str, str], log: IO[bytes] | None, *, computes: bool
) -> ForkedStage | None:
    """Start a stage that has its libraries imported; None where that cannot be had: macOS, or a failure.

    Args:
        module: what `python -m` would run.
        environment: the whole environment of the stage.
        log: takes its output; None: this process's own.
        computes: whether it needs the large libraries. One that does not is no reason to import them.
    """
    global _server
    if sys.platform != "linux":
        return None
    if _server is None:
        if not computes:
            return None
        _server = StageServer.spawned(environment)
    if not _server.fits(environment):
        return None
    return _server.start(module, (), environment, log, computes=computes)
