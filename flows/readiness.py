"""Waits for a starting server while its process lives and makes progress.

A busy machine, or a first start from a cold disk, takes minutes. So the limit applies to time without
progress (no processor time, nothing read from disk, no line in the log); the limit on the whole start is
wide.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from flows.child_process import describe_exit

STALL_LIMIT_S: Final = 120.0
LIMIT_VARIABLE: Final = "LTX2_START_LIMIT_S"
"""Sets how long a starting server may stand still, in seconds."""
WHOLE_FACTOR: Final = 10
"""A server that is busy for ten times as long without ever answering runs in circles."""
TELL_AFTER_S: Final = 15.0
POLL_S: Final = 0.1


class ServerError(RuntimeError):
    """A server cannot be started or reached; the text says why and what to do."""


@dataclass(frozen=True)
class Service:
    """A child process that serves something."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def ended(self) -> str | None:
        """How a service ended, with the end of its log; None while it runs."""
        code = self.process.poll()
        return None if code is None else f"{self.name} {describe_exit(code)}.\n{self.log_tail()}"

    def log_tail(self, lines: int = 15) -> str:
        text = self.log.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join([f"The end of {self.log}:", *text])


def start_limit() -> float:
    """How long a starting server may stand still, in seconds.

    Raises:
        ServerError: the environment variable holds no positive number.
    """
    given = os.environ.get(LIMIT_VARIABLE)
    if not given:
        return STALL_LIMIT_S
    try:
        limit = float(given)
    except ValueError:
        limit = 0.0
    if not limit > 0:
        raise ServerError(f"{LIMIT_VARIABLE} is {given!r}; write a number of seconds, such as 300")
    return limit


def await_ready(
    what: str,
    ready: Callable[[], bool],
    services: Sequence[Service],
    tell: Callable[[str], None],
    limit_s: float | None = None,
) -> None:
    """Wait until `ready`, as long as the services that it needs live and get on.

    Args:
        tell: is given a line after 15 s, and every minute from then on.
        limit_s: of standing still; `start_limit()` where it is None.

    Raises:
        ServerError: a service ended, stood still, or was busy for ten times the limit.
    """
    limit = start_limit() if limit_s is None else limit_s
    begin = last_change = time.monotonic()
    tell_at = begin + TELL_AFTER_S
    seen = _progress(services)
    while not ready():
        for service in services:
            if (end := service.ended()) is not None:
                raise ServerError(end)
        now = time.monotonic()
        if (progress := _progress(services)) != seen:
            seen, last_change = progress, now
        if now - last_change > limit:
            raise ServerError(
                _too_long(f"{what} has not answered, and done nothing for {limit:g} s", services)
            )
        if now - begin > WHOLE_FACTOR * limit:
            raise ServerError(_too_long(f"{what} has not answered for {WHOLE_FACTOR * limit:g} s", services))
        if now > tell_at:
            tell(f"waiting for {what}, {now - begin:.0f} s so far; it lives. Its log: {services[0].log}")
            tell_at = now + 60
        time.sleep(POLL_S)


def _too_long(message: str, services: Sequence[Service]) -> str:
    return f"{message} (set {LIMIT_VARIABLE} to wait longer).\n{services[0].log_tail()}"


def _progress(services: Sequence[Service]) -> list[tuple[float, int, int]]:
    """For each service the processor seconds, the bytes read and the size of its log; they only grow."""
    return [_of_one(service) for service in services]


def _of_one(service: Service) -> tuple[float, int, int]:
    size = service.log.stat().st_size if service.log.exists() else 0
    seconds, read = 0.0, 0
    try:
        parent = psutil.Process(service.process.pid)
        for process in (parent, *parent.children(recursive=True)):
            times = process.cpu_times()
            seconds += times.user + times.system
            # macOS does not tell what a process reads.
            read += process.io_counters().read_chars if hasattr(process, "io_counters") else 0
    except psutil.Error:
        pass  # It has just ended, which the caller sees.
    return round(seconds, 2), read, size
