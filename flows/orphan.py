"""Ends a flow process soon after its parent, without waiting for a server that is gone too.

The kernel sends it SIGTERM (`end_with`). Prefect then wants to report that, which takes it minutes if the
server is dead. A training still writes its checkpoint first. Imports nothing of Prefect.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from flows.server import healthy

POLL_S: Final = 0.5
LIMIT_S: Final = 35.0
"""For the checkpoint and for the report; a cancelled stage has 30 s, too."""
HEALTH_LIMIT_S: Final = 5.0

_busy = threading.Event()


@contextmanager
def last_work() -> Iterator[None]:
    """The block may finish within the limit, even if the parent is gone."""
    _busy.set()
    try:
        yield
    finally:
        _busy.clear()


def end_with_parent(api_url: str) -> None:
    """From now on this process ends soon after its parent does: at once if the server is gone, too."""
    parent = os.getppid()
    threading.Thread(target=_watch, args=(parent, api_url), name="end-with-parent", daemon=True).start()


def _watch(parent: int, api_url: str) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_S)
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline and (_busy.is_set() or healthy(api_url, HEALTH_LIMIT_S)):
        time.sleep(POLL_S)
    os.kill(os.getpid(), signal.SIGKILL)
