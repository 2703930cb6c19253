"""Processes that take processor time from what is measured."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from flows.child_process import start_child


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that do nothing but compute; they end with the block, and with this process."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [start_child(command, os.environ) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
