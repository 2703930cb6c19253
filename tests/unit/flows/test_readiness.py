"""A start is waited for as long as the process lives and gets on; what stands still or ends is told."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows import readiness
from flows.readiness import LIMIT_VARIABLE, ServerError, Service, await_ready, start_limit

STANDS_STILL = "import time; print('at work', flush=True); time.sleep(600)"
PRINTS = "import time\nwhile True: print('at work', flush=True); time.sleep(0.05)"
COMPUTES = "while True: pass"


@contextmanager
def started(code: str, log: Path) -> Iterator[Service]:
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=file, stderr=file)
    try:
        # Not to count the start of Python, which may stand still where the disk is busy.
        while "print" in code and not log.stat().st_size:
            time.sleep(0.02)
        yield Service("The server", process, log)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("code", [PRINTS, COMPUTES])
def test_what_gets_on_is_waited_for_beyond_the_limit(code: str, tmp_path: Path) -> None:
    """Asked 25 times, with pauses of 0.1 s: more than the limit of standing still."""
    asked = iter(range(25))
    with started(code, tmp_path / "log") as service:
        await_ready("it", lambda: next(asked, None) is None, [service], print, limit_s=2)


def test_what_stands_still_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    with (
        started(STANDS_STILL, tmp_path / "log") as service,
        pytest.raises(ServerError, match=rf"(?s)done nothing for 1 s \(set {LIMIT_VARIABLE}.*at work"),
    ):
        await_ready("it", lambda: False, [service], print, limit_s=1)


def test_what_runs_in_circles_is_given_up_at_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "WHOLE_FACTOR", 1.5)
    with (
        started(COMPUTES, tmp_path / "log") as service,
        pytest.raises(ServerError, match="has not answered for 3 s"),
    ):
        await_ready("it", lambda: False, [service], print, limit_s=2)


def test_what_ended_is_reported_at_once(tmp_path: Path) -> None:
    with (
        started("raise SystemExit('no room')", tmp_path / "log") as service,
        pytest.raises(ServerError, match=r"(?s)The server exited with status 1\..*no room"),
    ):
        await_ready("it", lambda: False, [service], print)


def test_a_long_wait_says_for_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "TELL_AFTER_S", 0.2)
    messages: list[str] = []
    with started(PRINTS, tmp_path / "log") as service:
        await_ready("the Prefect server", lambda: bool(messages), [service], messages.append)
    assert len(messages) == 1
    assert "waiting for the Prefect server" in messages[0]
    assert str(tmp_path / "log") in messages[0]


@pytest.mark.parametrize("given", ["soon", "0", "-3", "nan"])
def test_the_limit_is_a_number_of_seconds(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, "300")
    assert start_limit() == 300
    monkeypatch.setitem(os.environ, LIMIT_VARIABLE, given)
    with pytest.raises(ServerError, match=f"{LIMIT_VARIABLE} is '{given}'; write a number"):
        start_limit()
